"""Our own `:::MLLOG {json}` lines, read back: text in, events and steps out.

Streaming and pure. A line that was cut, was torn by another process's output or is not an event of ours is
skipped: a step that cannot be read is a missing step, and the run is then `incomplete`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

_MOST = 1 << 63  # what others can store; JSON's numbers have no end


def whole(value: Any) -> int | None:
    """A whole number of 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not -_MOST <= value < _MOST:
        return None
    return value


def finite(value: Any) -> float | None:
    """A number that is neither infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


PREFIX = ":::MLLOG"
NAMESPACE = "dlperf"
# Kinds of steps: a warm-up step and one outside the window of a method are kept, and do not count.
WARMUP, TRAIN, OTHER = "warmup", "train", "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; `line` counts from 1 within the text that was read."""

    line: int
    key: str
    value: Any
    metadata: dict[str, Any]
    event_type: str
    time_ms: int | None = None

    @property
    def rank(self) -> int | None:
        """The rank that printed it; None where the line does not say."""
        return whole(self.metadata.get("rank"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One iteration, or several that one line covers.

    Attributes:
        step: from 0; rising, not always by 1.
        samples: of the whole job.
        seconds: for all of the samples.
        kind: `train` for an accepted step; any other is timed, kept and not counted.
        loss: may be nan or inf; None where not printed.
        line: in the text that was read, from 1.
        time_ms: when it was printed, since 1970; None where not known.
        iterations: that the line covers.
        throughput: samples/s as the line says; None where it does not.
    """

    step: int
    samples: int
    seconds: float
    kind: str
    loss: float | None
    line: int = 0
    time_ms: int | None = field(default=None, compare=False)
    iterations: int = 1
    throughput: float | None = field(default=None, compare=False)


def event_line(
    key: str,
    value: Any = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    event_type: str = "POINT_IN_TIME",
    time_ms: int | None = None,
) -> str:
    """One event of rank 0 as a line; the same format as `frameworks/common/events.py` writes."""
    content = {
        "namespace": NAMESPACE,
        "time_ms": time_ms,
        "event_type": event_type,
        "key": key,
        "value": value,
        "metadata": {"rank": 0, **(metadata or {})},
    }
    return f"{PREFIX} {json.dumps(content, allow_nan=False)}\n"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Every event of ours in the lines, in their order, whatever stands before, between or behind."""
    for number, line in enumerate(lines, 1):
        start = line.find(PREFIX)
        while start >= 0:
            body = start + len(PREFIX)
            while line[body : body + 1] in {" ", "\t"}:
                body += 1
            try:
                content, end = _DECODER.raw_decode(line, body)
            except (ValueError, RecursionError):
                content, end = None, body
            event = _event(content, number)
            if event is not None:
                yield event
            start = line.find(PREFIX, end)


def _event(content: Any, line: int) -> Event | None:
    if not isinstance(content, dict) or content.get("namespace") != NAMESPACE:
        return None
    key, metadata = content.get("key"), content.get("metadata")
    if not isinstance(key, str):
        return None
    return Event(
        line=line,
        key=key,
        value=content.get("value"),
        metadata=metadata if isinstance(metadata, dict) else {},
        event_type=str(content.get("event_type")),
        time_ms=whole(content.get("time_ms")),
    )


def step_of(event: Event) -> Step | None:
    """The iteration that a `tracked_stats` event reports; None for any other event."""
    if event.key != "tracked_stats" or not isinstance(event.value, dict):
        return None
    step, samples = whole(event.metadata.get("step")), whole(event.metadata.get("samples"))
    seconds, kind = finite(event.value.get("seconds")), event.metadata.get("kind")
    if step is None or step < 0 or not samples or samples < 0 or seconds is None or seconds <= 0:
        return None
    if not isinstance(kind, str):
        return None
    return Step(
        step=step,
        samples=samples,
        seconds=seconds,
        kind=kind,
        loss=_loss(event.value),
        line=event.line,
        time_ms=event.time_ms,
        iterations=max(1, whole(event.metadata.get("iterations")) or 1),
        throughput=finite(event.value.get("throughput")),
    )


def read_steps(events: Iterable[Event], *, rank: int = 0) -> tuple[Step, ...]:
    """The series of one rank. Where a log holds several runs, one behind the other, the last one counts."""
    steps: list[Step] = []
    for event in events:
        if event.rank != rank:
            continue
        if event.key == "run_start":
            steps.clear()
        step = step_of(event)
        if step is None:
            continue
        if steps and step.step <= steps[-1].step:
            steps.clear()
        steps.append(step)
    return tuple(steps)


def _loss(value: dict[str, Any]) -> float | None:
    text = value.get("loss_text")
    if isinstance(text, str):
        try:
            return float(text)
        except ValueError:
            return None
    return finite(value.get("loss"))
