"""A run folder's result, made from `case.json`, `outcome.json` and `logs/` alone. Writes nothing.

The same folder gives the same result, byte for byte, whenever it is read.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dlperf import __version__
from dlperf.documents import first_problem
from dlperf.errors import UserError
from dlperf.logs.events import TRAIN, Event, Step, finite, read_events, read_steps, whole
from dlperf.logs.text import log_files, read_lines
from dlperf.plan.case import Case
from dlperf.results.folders import told_repeat
from dlperf.results.imported import extract_imported, read_import
from dlperf.results.outcome import read_outcome
from dlperf.results.schema import Engine, RunFigures, RunResult, Status
from dlperf.results.statistics import quantile, samples_per_second
from dlperf.results.steadiness import OWN_RULE, in_steady_state, rule_of
from dlperf.results.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """A result, the whole step series behind it (iterate as often as you like), and which steps count."""

    result: RunResult
    steps: Iterable[Step]
    rule: str = OWN_RULE


def result_from_run_folder(folder: Path) -> RunResult:
    """The result of a run folder.

    Raises:
        UserError: no run folder: no case.json, one that cannot be read, or a name other than r<repeat>.
    """
    return extract(folder).result


def extract(folder: Path) -> Extracted:
    """The result of a run folder and its step series; raises as `result_from_run_folder`."""
    case = read_case(folder)
    imported = read_import(folder)
    if imported is not None:
        result, measured = extract_imported(folder, case=case, imported=imported)
        return Extracted(result=result, steps=measured.steps, rule=measured.rule)
    repeat = told_repeat(folder)
    outcome = read_outcome(folder / "outcome.json")
    events = _events(folder)
    steps = read_steps(events.get(0, ()))
    verdict = judge(case, steps=steps, outcome=outcome, folder=folder)
    steadiness = None
    if verdict.status is Status.OK:
        steps, steadiness, verdict = in_steady_state(steps, verdict)
    result = RunResult(
        dlperf_version=__version__,
        case=case,
        repeat=repeat,
        status=verdict.status,
        reason=verdict.reason,
        evidence=verdict.evidence,
        started_at=outcome.started_at if outcome else None,
        seconds=outcome.seconds if outcome else None,
        nodes=outcome.hosts if outcome else (),
        figures=_figures(steps, events) if verdict.status is Status.OK else None,
        engine=_engine(events.get(0, ())),
        memory_held_by=outcome.memory_held_by if outcome else None,
        steadiness=steadiness,
    )
    return Extracted(result=result, steps=steps, rule=rule_of(steadiness))


def read_case(folder: Path) -> Case:
    """The case of a run folder; UserError where there is none that can be read."""
    path = folder / "case.json"
    try:
        return Case.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: no run folder: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path}: no case: {first_problem(error)}") from error


def _events(folder: Path) -> dict[int, list[Event]]:
    """Each rank's own events, from its own log."""
    return {
        rank: [event for event in read_events(read_lines(path)) if event.rank == rank]
        for rank, path in log_files(folder).items()
    }


def figures_of(steps: Sequence[Step], *, peak_memory_bytes: int | None = None) -> RunFigures:
    """The figures of a series with at least one accepted step (kind `train`)."""
    accepted = [step for step in steps if step.kind == TRAIN]
    seconds = [step.seconds for step in accepted]
    losses = [step.loss for step in steps if step.loss is not None and math.isfinite(step.loss)]
    finite = len(losses) == sum(step.loss is not None for step in steps)
    return RunFigures(
        samples_per_sec=samples_per_second((step.samples for step in accepted), seconds),
        accepted_steps=len(accepted),
        dropped_steps=len(steps) - len(accepted),
        step_seconds_median=quantile(seconds, 0.5),
        step_seconds_p95=quantile(seconds, 0.95),
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses and finite else None,
        peak_memory_bytes=peak_memory_bytes,
    )


def _figures(steps: Sequence[Step], events: dict[int, list[Event]]) -> RunFigures:
    peaks = [
        event.value
        for rank_events in events.values()
        for event in rank_events
        if event.key == "peak_memory_bytes" and _is_count(event.value)
    ]
    return figures_of(steps, peak_memory_bytes=max(peaks, default=None))


def _engine(events: Iterable[Event]) -> Engine:
    last = {event.key: event.value for event in events}
    facts, cost, rate = last.get("framework"), last.get("model_cost"), last.get("matmul_flops_per_second")
    cost = cost if isinstance(cost, dict) else {}
    counts = ("network_parameters", "classifier_parameters", "training_flops_per_sample")
    return Engine(
        facts=dict(sorted(_flat(facts).items())) if isinstance(facts, dict) else {},
        matmul_flops_per_second=_rate(rate),
        phase_seconds=_phases(last.get("time_breakdown")),
        **{name: cost[name] for name in counts if _is_count(cost.get(name))},
    )


def _phases(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    rates = {_storable(name): _rate(seconds) for name, seconds in value.items()}
    return {name: seconds for name, seconds in rates.items() if seconds is not None}


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested facts as `libraries.mkl`; whatever is neither number nor text as its JSON."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in facts.items():
        name = _storable(prefix + key)
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, str):
            flat[name] = _storable(value)
        elif isinstance(value, float) and not math.isfinite(value):
            flat[name] = str(value)
        elif isinstance(value, bool | int | float):
            flat[name] = value
        elif value is not None:
            flat[name] = _storable(json.dumps(value))
    return flat


def _storable(text: str) -> str:
    """JSON can name half a surrogate pair; UTF-8 cannot hold it."""
    return text.encode(errors="replace").decode()


def _is_count(value: Any) -> bool:
    return (whole(value) or 0) > 0


def _rate(value: Any) -> float | None:
    number = finite(value)
    return number if number is not None and number > 0 else None
