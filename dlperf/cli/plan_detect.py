"""`dlperf plan --detect 2%`: how many runs it takes to see a change of that size here, and how long."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dlperf.cli.plan_view import duration, known_seconds
from dlperf.cli.tables import rendered
from dlperf.compare.judging import LEVEL
from dlperf.compare.metrics import SAMPLES_PER_SECOND
from dlperf.compare.power import MOST_RUNS, POWER, runs_to_detect
from dlperf.errors import UserError
from dlperf.report.numbers import percent, plural
from dlperf.results.cell import cell_name
from dlperf.results.qualification import read_qualification, usual_qualification
from dlperf.results.statistics import standard_deviation
from dlperf.results.store import read_results

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dlperf.plan.case import Case
    from dlperf.plan.plan import Plan

# Nine of ten published series of runs of one case were less noisy.
_ASSUMED_CV = 0.015
_FEWEST_RUNS_FOR_NOISE = 4


def detect_text(plan: Plan, text: str, *, folder: Path) -> str:
    """For each case the runs a side, their noise and where that is known from; the device hours below.

    Raises:
        UserError: `text` is no percentage.
    """
    return "\n".join(_lines(plan, _fraction(text), folder)) + "\n"


def _fraction(text: str) -> float:
    try:
        percentage = float(text.strip().removesuffix("%"))
    except ValueError:
        percentage = -1.0
    if not 0 < percentage < 100:  # noqa: PLR2004 - percent
        raise UserError(f"--detect {text}: write a percentage, such as 2%")
    return percentage / 100


def _lines(plan: Plan, effect: float, folder: Path) -> Iterator[str]:
    noise, seconds = _noise(folder), known_seconds(folder)
    cases = plan.runnable
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("case", "framework", "noise of a block", "known from", "runs a side", "time"):
        table.add_column(heading)
    hours, unknown = 0.0, 0
    for case in cases:
        deviation, source = noise.get(
            _key(case), (math.sqrt(2) * _ASSUMED_CV, "assumed: 9 of 10 published series are below")
        )
        count = runs_to_detect(
            math.log1p(-effect), variance=deviation**2, blocked=True, level=LEVEL, tests=len(cases)
        )
        took = seconds.get(case.case_id)
        time = "" if took is None or count is None else duration(took * count)
        cells = (
            cell_name(case),
            f"{case.framework} {case.version}",
            percent(deviation),
            source,
            str(count) if count is not None else f"more than {MOST_RUNS}",
            time,
        )
        table.add_row(*map(Text, cells))  # no markup: a folder's name may hold brackets
        if took is None or count is None:
            unknown += 1
        else:
            hours += took * count * case.topology.world_size / 3600
    tests = plural(len(cases), "test")
    yield f"a change by {percent(effect)}, found {100 * POWER:.0f} times in 100; {tests} together at 5 %"
    yield ""
    yield rendered(table).rstrip()
    yield ""
    left_out = f", without {plural(unknown, 'case')} of unknown time" if unknown else ""
    yield f"{hours:.2f} device hours{left_out}"


def _key(case: Case) -> tuple[str, str]:
    return (cell_name(case), case.framework)


def _noise(folder: Path) -> dict[tuple[str, str], tuple[float, str]]:
    """The deviation of a difference within a block: of earlier runs, or better of a qualification."""
    found: dict[tuple[str, str], tuple[float, str]] = {}
    if folder.is_dir():
        logs: dict[tuple[str, str, str], list[float]] = {}
        for run in read_results(folder).runs:
            if run.result.figures is not None:
                key = (*_key(run.result.case), run.result.case.version)
                logs.setdefault(key, []).append(math.log(run.result.figures.samples_per_sec))
        for (cell, framework, _), values in logs.items():
            if len(values) >= _FEWEST_RUNS_FOR_NOISE:
                deviation = math.sqrt(2) * (standard_deviation(values) or 0.0)
                found[cell, framework] = (deviation, f"{len(values)} runs in {folder}")
    qualified = usual_qualification()
    if qualified is not None:
        sessions = read_qualification(qualified).sessions  # what the last one says stays
        for one in (noise for session in sessions for noise in session.noise):
            if one.metric == SAMPLES_PER_SECOND.name:
                found[one.cell, one.framework] = (one.deviation, str(qualified))
    return found
