"""`dlperf qualify`: how much this machine moves by itself, and how often that would be an alarm."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from dlperf.cli import options
from dlperf.cli.run import make_runs, show
from dlperf.cli.terminal import echo, table
from dlperf.compare.output import noise_profile_line
from dlperf.compare.sets import METRICS, ResultSet, result_set_of
from dlperf.compare.tests import qualify
from dlperf.errors import UserError
from dlperf.files import write_document
from dlperf.layout import LOCK_NAME
from dlperf.report.numbers import percent
from dlperf.results.noise_profile import NoiseProfile, read_noise_profile
from dlperf.results.query import load
from dlperf.results.store import read_results
from dlperf.wording import plural

_EPILOG = """\b
Examples:
  dlperf qualify quickstart --dry-run
  dlperf qualify quickstart
  dlperf qualify results/quickstart
  dlperf qualify sweeps/nightly.yaml --repeats 7 -o baselines/qualification.json

Each case runs 2 x REPEATS times, alternating between two sides that cannot differ. SWEEP may also be a
results folder with that many runs. `dlperf compare` and `dlperf gate` read the file written here and ignore
changes that are smaller than the noise of their case.

Each call adds a session to the file. With two or more sessions, best on different days, the file also says
how much a case changes between sessions; this counts where the two sides did not run in turns."""


_SESSION = re.compile(r"session-(?P<number>[1-9][0-9]*)")


@click.command(epilog=_EPILOG)
@options.SWEEP
@options.results_option("results/SWEEP-qualify")
@click.option(
    "--repeats",
    type=options.at_least(4),
    default=5,
    help="Runs per side; use as many as your comparisons will have.",
)
@click.option(
    "-o",
    "--out",
    type=options.FILE,
    default=Path("baselines/qualification.json"),
    help="File to write, or to add this session to.",
)
@options.DRY_RUN
@options.running_options()
def command(
    *,
    chosen: options.SweepChoice,
    results: Path | None,
    repeats: int,
    out: Path,
    dry_run: bool,
    run_options: options.RunOptions,
) -> None:
    """Measure the noise of SWEEP's cases on this machine by A/A runs, and store it."""
    known = read_noise_profile(out) if out.is_file() else NoiseProfile(dlperf_version="", sessions=())
    folder = Path(chosen.sweep)
    if not folder.is_dir():
        plan = chosen.selected(chosen.plan(f"measure.repeats={2 * repeats}", "order=interleaved"))
        if not plan.runnable:
            raise UserError(f"{chosen.sweep}: no case can run here; `dlperf plan {chosen.sweep}` says why")
        folder = session_folder(results or options.default_folder(plan, suffix="-qualify"), known)
        if dry_run:
            show(plan, folder, chosen.cluster, run_options)
            return
        make_runs(plan, folder, chosen.cluster, run_options)
    elif dry_run:
        raise UserError(f"{folder}: of a results folder nothing runs; leave out --dry-run")
    elif chosen.has_options:
        raise UserError(f"{folder}: a results folder is taken whole; leave out the options of a sweep")
    found = known.with_session(qualify(_side(folder), runs=repeats))
    write_document(out, found)
    echo(*_lines(found), str(out))


def _side(folder: Path) -> ResultSet:
    """The runs of one session; UserError where the folder holds several."""
    loaded = load([folder], strict=False)
    if len(loaded.results.sweeps) > 1:
        names = ", ".join(sorted(str(one) for one in loaded.results.sweeps)[:3])
        raise UserError(f"{folder}: holds several sweeps ({names}); a session is one: name its folder")
    return result_set_of(loaded, label=str(folder))


def session_folder(folder: Path, known: NoiseProfile) -> Path:
    """Where this session's runs go: behind the sessions that are in the file, on with one that is not."""
    names = (_SESSION.fullmatch(path.parent.name) for path in folder.glob(f"session-*/{LOCK_NAME}"))
    number = max((int(name["number"]) for name in names if name is not None), default=0)
    if not number:
        return folder / "session-1"
    last = folder / f"session-{number}"
    starts = [run.result.started_at for run in read_results(last).runs if run.result.started_at is not None]
    counted = min(starts, default=None) in {one.started_at for one in known.sessions}
    return folder / f"session-{number + 1}" if starts and counted else last


def _lines(found: NoiseProfile) -> Iterator[str]:
    latest = {(one.case, one.hardware, one.metric): one for each in found.sessions for one in each.noise}
    rows = []
    for one in latest.values():
        key = found.key(one)
        between = found.of_sessions.get(key)
        cells = (
            one.cell,
            f"{one.framework} {one.version}",
            METRICS[one.metric].title,
            percent(one.deviation),
            percent(found.of_runs[key].value),
            "not measured"
            if between is None
            else f"{percent(between.value)} ({plural(between.sessions, 'session')})",
        )
        rows.append(cells)
    numbers = ("deviation of a block", "noise floor", "between sessions")
    yield table(("case", "framework", "metric", *numbers), rows, right=numbers)
    yield ""
    yield noise_profile_line(found)
    if not found.of_sessions:
        yield "between sessions: not measured; run this command again on another day"
