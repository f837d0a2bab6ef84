"""The steady state of a run: which of its steps count, and what becomes of its status."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dlperf.logs.events import TRAIN
from dlperf.results.schema import Status, Steadiness
from dlperf.results.steady import FEWEST_JUDGED, FEWEST_STEADY, Course, Shape, classify
from dlperf.results.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.logs.events import Step

# Kinds of measured steps that do not count.
UNSTEADY: Final = "unsteady"
PAUSE: Final = "pause"

OWN_RULE = "all steps behind the warm-up iterations of the case"
_STEADY_RULE: Final = "the steady stretch behind the warm-up iterations of the case, without pauses"


def rule_of(steadiness: Steadiness | None) -> str:
    """In words, which steps a run's figures are made from."""
    whole = steadiness is None or (steadiness.shape == "flat" and not steadiness.pauses)
    return OWN_RULE if whole else _STEADY_RULE


def in_steady_state(
    steps: Sequence[Step], verdict: Verdict
) -> tuple[tuple[Step, ...], Steadiness | None, Verdict]:
    """The steps of a good run with those marked that do not count, its course, and its verdict.

    A run with fewer than `FEWEST_JUDGED` measured steps, or one whose clock shows no time for a step, is left
    as it is. Steps before the steady stretch become `unsteady`, pauses `pause`. A run that has no steady
    stretch is `insufficient` where it was still warming up, else `unsteady`.
    """
    places = [place for place, step in enumerate(steps) if step.kind == TRAIN]
    seconds = [steps[place].seconds for place in places]
    if len(places) < FEWEST_JUDGED or min(seconds) <= 0:
        return tuple(steps), None, verdict
    course = classify(seconds)
    pauses = {places[each] for each in course.pauses}
    first = places[course.first] if course.first is not None else len(steps)
    steadiness = Steadiness(
        shape=course.shape.value,
        first_step=steps[first].step if course.first is not None else None,
        pauses=len(pauses),
        pause_seconds=math.fsum(steps[place].seconds for place in pauses),
    )
    if course.first is None:
        return tuple(steps), steadiness, _without_steady_state(course)
    marked = tuple(
        replace(step, kind=PAUSE if place in pauses else UNSTEADY)
        if step.kind == TRAIN and (place in pauses or place < first)
        else step
        for place, step in enumerate(steps)
    )
    reason = verdict.reason or _oddity(steadiness)
    return marked, steadiness, replace(verdict, reason=reason)


def _without_steady_state(course: Course) -> Verdict:
    status = Status.INSUFFICIENT if course.shape is Shape.WARM_UP else Status.UNSTEADY
    levels = ", ".join(f"{1000 * level:.4g}" for level in course.levels)
    reason = (
        f"no steady state: {course.shape.value}, medians of the stretches {levels} ms a step; the last one "
        f"is less than half of the time or {FEWEST_STEADY} steps: measure more iterations, or warm up longer"
    )
    return Verdict(status=status, reason=reason)


def _oddity(steadiness: Steadiness) -> str | None:
    """What a reader should know about a good run; nothing about a flat one without pauses."""
    if steadiness.shape == "flat" and not steadiness.pauses:
        return None
    return steadiness_line(steadiness)


def steadiness_line(steadiness: Steadiness) -> str:
    """`warm-up: counted from step 52; 2 pauses of 3.1 s in all`."""
    parts: list[str] = [steadiness.shape]
    if steadiness.shape != "flat" and steadiness.first_step is not None:
        parts = [f"{steadiness.shape}: counted from step {steadiness.first_step}"]
    if steadiness.pauses:
        word = "pause" if steadiness.pauses == 1 else "pauses"
        parts.append(f"{steadiness.pauses} {word} of {steadiness.pause_seconds:.3g} s in all, in no rate")
    return "; ".join(parts)
