"""A run folder's result, computed from its case, outcome, logs and telemetry alone. Writes nothing.

The same folder gives the same result, byte for byte, whenever it is read.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from dlperf.errors import UserError
from dlperf.files import first_problem, read_document, read_regular
from dlperf.layout import CASE_NAME, IMPORT_NAME, OUTCOME_NAME, log_files, require_repeat
from dlperf.logs.endings import read_outcome
from dlperf.logs.events import TRAIN, Event, Step, finite, read_events, read_steps, whole
from dlperf.logs.text import read_lines
from dlperf.plan.case import Case
from dlperf.results.interference import interference_of
from dlperf.results.reading import reading_of
from dlperf.results.run_outcome import RunOutcome, run_outcome
from dlperf.results.schema import (
    METHOD_2021,
    PEAKS,
    SAMPLES_PER_SECONDS,
    Engine,
    Imported,
    Interference,
    RunFigures,
    RunResult,
    Status,
    Steadiness,
    read_environment,
)
from dlperf.results.straggler import rank_times_of
from dlperf.results.telemetry import Shift, clock_shifts, read_telemetry, telemetry_of
from dlperf.statistics.basic import quantile, samples_per_second
from dlperf.statistics.changepoint import FEWEST_JUDGED, FEWEST_STEADY, Segmentation, Shape, classify
from dlperf.version import __version__

# Kinds of measured steps that do not count.
UNSTEADY: Final = "unsteady"
PAUSE: Final = "pause"

_OWN_RULE: Final = "all steps behind the warm-up iterations of the case"
_STEADY_RULE: Final = "the steady stretch behind the warm-up iterations of the case, without pauses"


def in_steady_state(
    steps: Sequence[Step], ended: RunOutcome
) -> tuple[tuple[Step, ...], Steadiness | None, RunOutcome]:
    """The steps of a good run with those marked that do not count, its steady state, and its outcome.

    The time per iteration of each line is judged. A run with fewer than `FEWEST_JUDGED` measured lines, as of
    a program that prints averages, or one whose clock shows no time for a step, is left as it is. Steps
    before the steady stretch become `unsteady`, pauses `pause`. A run that has no steady stretch is
    `insufficient` where it was still warming up, else `unsteady`.
    """
    places = [place for place, step in enumerate(steps) if step.kind == TRAIN]
    seconds = [steps[place].seconds / steps[place].iterations for place in places]
    if len(places) < FEWEST_JUDGED or min(seconds) <= 0:
        return tuple(steps), None, ended
    segments = classify(seconds)
    pauses = {places[each] for each in segments.pauses}
    first = places[segments.first] if segments.first is not None else len(steps)
    steadiness = Steadiness(
        shape=segments.shape.value,
        first_step=steps[first].step if segments.first is not None else None,
        pauses=len(pauses),
        pause_seconds=math.fsum(steps[place].seconds for place in pauses),
    )
    if segments.first is None:
        return tuple(steps), steadiness, _without_steady_state(segments)
    marked = tuple(
        replace(step, kind=PAUSE if place in pauses else UNSTEADY)
        if step.kind == TRAIN and (place in pauses or place < first)
        else step
        for place, step in enumerate(steps)
    )
    oddity = None if _is_plain(steadiness) else steadiness_line(steadiness)
    return marked, steadiness, replace(ended, reason=ended.reason or oddity)


def _disturbed(ended: RunOutcome, interference: Interference, case: Case) -> RunOutcome:
    """A run without a figure, if it would have had one or was unsteady: other work explains both."""
    if ended.status not in {Status.OK, Status.UNSTEADY, Status.INSUFFICIENT}:
        return ended
    reason = (
        f"other work took {interference.share:.1%} of its CPU time; "
        f"the limit is {case.measure.max_interference:.1%} (measure.max_interference)"
    )
    return RunOutcome(status=Status.DISTURBED, reason=reason)


def _without_steady_state(segments: Segmentation) -> RunOutcome:
    status = Status.INSUFFICIENT if segments.shape is Shape.WARM_UP else Status.UNSTEADY
    levels = ", ".join(f"{1000 * level:.4g}" for level in segments.levels)
    reason = (
        f"no steady state: {segments.shape.value}, medians of the stretches {levels} ms per step; the last "
        f"one is less than half of the time or {FEWEST_STEADY} steps: measure more iterations, or warm up "
        "longer"
    )
    return RunOutcome(status=status, reason=reason)


def _is_plain(steadiness: Steadiness) -> bool:
    return steadiness.shape == "flat" and not steadiness.pauses


def steadiness_line(steadiness: Steadiness) -> str:
    """`warm-up: counted from step 52; 2 pauses of 3.1 s in all`."""
    parts: list[str] = [steadiness.shape]
    if steadiness.shape != "flat" and steadiness.first_step is not None:
        parts = [f"{steadiness.shape}: counted from step {steadiness.first_step}"]
    if steadiness.pauses:
        word = "pause" if steadiness.pauses == 1 else "pauses"
        parts.append(f"{steadiness.pauses} {word} of {steadiness.pause_seconds:.3g} s in all, in no rate")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """A result, its whole step series, which steps count, and the nodes' clocks (`clock_shifts`)."""

    result: RunResult
    steps: Sequence[Step]
    rule: str
    shifts: Mapping[int, Shift | None]


def extract(folder: Path) -> Extracted:
    """The result of a run folder and its step series; UserError where it is no run folder."""
    case = read_case(folder)
    imported = read_import(folder)
    repeat = require_repeat(folder)
    outcome = read_outcome(folder / OUTCOME_NAME)
    try:
        steps, events = _read_logs(folder)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    own = events.get(0, [])
    method, window = _method(own)
    ended = run_outcome(case, steps=steps, events=own, outcome=outcome, folder=folder)
    engine = _engine(own)
    environment = read_environment(folder)
    clocks = environment.clocks if environment is not None else ()
    shifts = clock_shifts(clocks, events, topology=case.topology)
    interference, steadiness = interference_of(events, device=case.device), None
    if ended.status is Status.OK and window is None:
        steps, steadiness, ended = in_steady_state(steps, ended)
    if interference is not None and interference.share > case.measure.max_interference:
        ended = _disturbed(ended, interference, case)
    try:
        result = RunResult(
            dlperf_version=__version__,
            case=case,
            repeat=repeat,
            status=ended.status,
            reason=ended.reason,
            evidence=ended.evidence,
            started_at=outcome.started_at if outcome else None,
            seconds=outcome.seconds if outcome else None,
            nodes=outcome.hosts if outcome else (),
            figures=_figures(steps, events, method) if ended.status is Status.OK else None,
            engine=engine,
            method=method,
            not_known=_not_known(own),
            imported=imported,
            memory_held_by=outcome.memory_held_by if outcome else None,
            peak_unknown=_peak_unknown(events),
            interference=interference,
            telemetry=telemetry_of(
                read_telemetry(folder), steps=steps, shifts=shifts, case=case, engine=engine
            ),
            reading=reading_of(events, case),
            steadiness=steadiness,
            rank_times=rank_times_of(events, topology=case.topology, hosts=outcome.hosts if outcome else ()),
        )
    except ValidationError as error:
        raise UserError(f"{folder}: its logs give no result: {first_problem(error)}") from error
    own_rule = _OWN_RULE if steadiness is None or _is_plain(steadiness) else _STEADY_RULE
    averaged = max((step.iterations for step in steps), default=1)
    if averaged > 1:
        own_rule += f"; each is the program's own average over {averaged} iterations"
    return Extracted(result=result, steps=steps, rule=window or own_rule, shifts=shifts)


def read_case(folder: Path) -> Case:
    """The case of a run folder; UserError where there is none that can be read."""
    path = folder / CASE_NAME
    try:
        return Case.model_validate_json(read_regular(path))
    except OSError as error:
        raise UserError(f"{path}: no run folder: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path}: no case: {first_problem(error)}") from error


def read_import(folder: Path) -> Imported | None:
    """`import.json` of a run folder; None where the run was not imported."""
    path = folder / IMPORT_NAME
    if not path.exists():
        return None
    return read_document(
        path, Imported, kind="record of an import", remedy="remove the run folder and import the log again"
    )


def _read_logs(folder: Path) -> tuple[tuple[Step, ...], dict[int, list[Event]]]:
    """The steps of rank 0, and the other events of each rank, from its own log."""
    steps: tuple[Step, ...] = ()
    others: dict[int, list[Event]] = {}
    for rank, path in log_files(folder).items():
        events = (event for event in read_events(read_lines(path)) if event.rank == rank)
        others[rank] = []
        if rank == 0:
            steps = read_steps(_keeping_others(events, others[rank]))
        else:
            others[rank].extend(event for event in events if event.key != "tracked_stats")
    return steps, others


def _keeping_others(events: Iterable[Event], others: list[Event]) -> Iterator[Event]:
    """The events, of which those without a step are kept: a long log has millions of the rest."""
    for event in events:
        if event.key != "tracked_stats":
            others.append(event)
        yield event


def _method(events: Iterable[Event]) -> tuple[str, str | None]:
    """The method of the figure, and the rule by which the log chose its own window; None: it chose none."""
    told = [event for event in events if event.key == "figure_method" and isinstance(event.value, str)]
    if not told:
        return SAMPLES_PER_SECONDS, None
    return _storable(told[-1].value), _storable(str(told[-1].metadata.get("rule")))


def _not_known(events: Iterable[Event]) -> tuple[str, ...]:
    told = [event.value for event in events if event.key == "not_known" and isinstance(event.value, list)]
    return tuple(_storable(str(name)) for name in told[-1]) if told else ()


def mean_2021(rates: Sequence[float]) -> float:
    """A run's figure of the 2021 comparison, exactly: numpy's rounding of the mean of its rates.

    A mean of rates is not samples over time: fast windows count as much as slow ones.
    """
    return float(round(np.mean(rates), 2))


def median_2021(run_figures: Sequence[float]) -> float:
    """A case's figure of the 2021 comparison: the median of its runs, rounded to 2 decimals."""
    return float(round(np.median(run_figures), 2))


def _figures(steps: Sequence[Step], events: dict[int, list[Event]], method: str) -> RunFigures:
    """Of a series with at least one accepted step."""
    accepted = [step for step in steps if step.kind == TRAIN]
    seconds = [step.seconds for step in accepted]
    each = [step.seconds / step.iterations for step in accepted]
    if method == METHOD_2021:
        rate = mean_2021([step.throughput or step.samples / step.seconds for step in accepted])
    else:
        rate = samples_per_second((step.samples for step in accepted), seconds)
    losses = [step.loss for step in steps if step.loss is not None and math.isfinite(step.loss)]
    all_finite = len(losses) == sum(step.loss is not None for step in steps)
    return RunFigures(
        samples_per_sec=rate,
        accepted_steps=sum(step.iterations for step in accepted),
        dropped_steps=sum(step.iterations for step in steps if step.kind != TRAIN),
        step_seconds_median=quantile(each, 0.5),
        step_seconds_p95=quantile(each, 0.95),
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses and all_finite else None,
        **{name: _peak(name, events) for name in PEAKS},
    )


def _peak(name: str, events: dict[int, list[Event]]) -> int | None:
    """The largest over the ranks; None if one of them could not measure its own."""
    values = [event.value for own in events.values() for event in own if event.key == name]
    return None if None in values else max(filter(_is_count, values), default=None)


def _peak_unknown(events: dict[int, list[Event]]) -> str | None:
    """Why a rank could not measure its peak of memory."""
    for event in (event for own in events.values() for event in own):
        if event.key in PEAKS and event.value is None:
            return _storable(f"{PEAKS[event.key]}: {event.metadata.get('reason', 'no reason given')}")
    return None


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
