"""How a run read its data set, from the events `data_set` and `reading` that its ranks printed.

    wait_share      = wait_seconds / seconds         of the measured window, of the rank that waited most
    resident_share  = sum(resident_share x bytes) / sum(bytes)     over the ranks, before the first step
    bytes_per_second = sum(read_bytes / seconds)     over the ranks: what they read by system calls

Ranks wait for each other, so the rank that waited most decides.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dlperf.logs.events import TRAIN, Event, finite
from dlperf.plan.case import Case
from dlperf.results.schema import LARGEST, DataReading


def reading_of(events: Mapping[int, Sequence[Event]], case: Case) -> DataReading | None:
    """What the ranks of a run measured; None where no rank did, and of synthetic images."""
    if case.data is None:
        return None
    prepared = [value for own in events.values() if (value := _last(own, "data_set"))]
    windows = [
        value
        for own in events.values()
        if (value := _last(own, "reading", kind=TRAIN)) and _seconds(value) is not None
    ]
    if not prepared and not windows:
        return None
    shares = [share for share in map(_wait_share, windows) if share is not None]
    return DataReading(
        form=_text(prepared, "form"),
        file_system=_text(prepared, "file_system"),
        resident_share=_resident(prepared),
        wait_share=max(shares, default=None),
        bytes_per_second=_bytes_per_second(windows, "read_bytes"),
        storage_bytes_per_second=_bytes_per_second(windows, "storage_bytes"),
    )


def _last(own: Sequence[Event], key: str, *, kind: str | None = None) -> dict[str, Any] | None:
    """The last value of an event of a rank; where a log holds several runs, the last one counts."""
    values = [
        event.value
        for event in own
        if event.key == key
        and isinstance(event.value, dict)
        and (kind is None or event.metadata.get("kind") == kind)
    ]
    return values[-1] if values else None


def _text(values: Sequence[dict[str, Any]], name: str) -> str | None:
    """The different texts of the ranks; None where none says it."""
    texts = dict.fromkeys(value[name] for value in values if isinstance(value.get(name), str))
    return ", ".join(text.encode(errors="replace").decode() for text in texts) or None


def _number(value: Any) -> float | None:
    number = finite(value)
    return number if number is not None and 0 <= number <= LARGEST else None


def _seconds(window: dict[str, Any]) -> float | None:
    return _number(window.get("seconds")) or None


def _wait_share(window: dict[str, Any]) -> float | None:
    seconds, waited = _seconds(window), _number(window.get("wait_seconds"))
    return None if seconds is None or waited is None else min(1.0, waited / seconds)


def _bytes_per_second(windows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Over all ranks; None where one of them does not know."""
    total = 0.0
    for window in windows:
        size, seconds = _number(window.get(name)), _seconds(window)
        if size is None or seconds is None:
            return None
        total += size / seconds
    return total if windows and total <= LARGEST else None


def _resident(prepared: Sequence[dict[str, Any]]) -> float | None:
    """None where one of the ranks does not know."""
    parts = [(_number(value.get("resident_share")), _number(value.get("bytes"))) for value in prepared]
    resident = total = 0.0
    for share, size in parts:
        if share is None or not size:
            return None
        resident, total = resident + min(1.0, share) * size, total + size
    return resident / total if total else None
