"""Our own `:::MLLOG {json}` lines, read back: text in, events and steps out.

Streaming and pure. A line that was cut, was torn by another process's output or is not an event of ours is
skipped: a step that cannot be read is a missing step, and the run is then `incomplete`.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

_MOST = 1 << 63  # what others can store; JSON's numbers have no end


def whole(value: Any) -> int | None:
    """A whole number of 64 bits out of JSON; None for anything else, true and false included."""
    return value if type(value) is int and -_MOST <= value < _MOST else None


def finite(value: Any) -> float | None:
    """A number out of JSON that is neither infinite nor NaN, and that a double can hold."""
    if type(value) is int:
        return float(value) if abs(value) <= sys.float_info.max else None
    return value if type(value) is float and math.isfinite(value) else None


PREFIX = ":::MLLOG"
NAMESPACE = "dlperf"
# Kinds of steps: a warm-up step and one outside the window of a method are kept, and do not count.
WARMUP, TRAIN, OTHER = "warmup", "train", "other"


class Event(NamedTuple):
    """One event: `line` counts from 1 within the text that was read; `rank` printed it."""

    line: int
    key: str
    value: Any
    metadata: dict[str, Any]
    event_type: str
    time_ms: int | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One iteration, or several that one line covers."""

    step: int  # from 0; rising, not always by 1
    samples: int  # of the whole job
    seconds: float  # for all of the samples
    kind: str  # `train` for an accepted step; any other is timed, kept and not counted
    loss: float | None  # may be nan or inf; None where not printed
    line: int = 0  # in the text that was read, from 1
    time_ms: int | None = field(default=None, compare=False)  # when it was printed, since 1970
    iterations: int = 1  # that the line covers
    throughput: float | None = field(default=None, compare=False)  # samples/s, where the line says it


_ENCODER = json.JSONEncoder(allow_nan=False)


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
    return f"{PREFIX} {_ENCODER.encode(content)}\n"


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
    if not isinstance(metadata, dict):
        metadata = {}
    return Event(
        line=line,
        key=key,
        value=content.get("value"),
        metadata=metadata,
        event_type=str(content.get("event_type")),
        time_ms=whole(content.get("time_ms")),
        rank=whole(metadata.get("rank")),
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
        kind=sys.intern(kind),  # else every step of a long log keeps a text of its own
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
