"""Our own event lines, written by the programs' event log and read back."""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.logs.events import Step, read_events, read_steps, step_of
from frameworks.common.events import EventLog

if TYPE_CHECKING:
    from collections.abc import Sequence

finite = st.floats(min_value=1e-6, max_value=1e6)
steps_strategy = st.lists(
    st.tuples(finite, st.one_of(st.none(), st.floats(allow_nan=True)), st.sampled_from(["warmup", "train"])),
    max_size=12,
)
# Anything a framework may print, our prefix and line ends excluded.
noise = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=60).filter(
    lambda text: ":::MLLOG" not in text
)


def written(steps: Sequence[tuple[float, float | None, str]], rank: int = 0) -> list[str]:
    stream = io.StringIO()
    log = EventLog(rank, stream)
    for number, (seconds, loss, kind) in enumerate(steps):
        log.step(number, 16, seconds, loss, kind)
    return stream.getvalue().splitlines()


def same_loss(left: float | None, right: float | None) -> bool:
    return left == right or (
        left is not None and right is not None and math.isnan(left) and math.isnan(right)
    )


@given(steps_strategy, st.data())
def test_what_was_written_is_read_back_between_any_noise(
    steps: Sequence[tuple[float, float | None, str]], data: st.DataObject
) -> None:
    lines = []
    for line in written(steps):
        lines += [data.draw(noise), data.draw(noise) + line + data.draw(noise)]
    found = read_steps(read_events(lines))
    assert [(step.step, step.samples, step.seconds, step.kind) for step in found] == [
        (number, 16, seconds, kind) for number, (seconds, _, kind) in enumerate(steps)
    ]
    assert all(same_loss(step.loss, loss) for step, (_, loss, _) in zip(found, steps, strict=True))


class Writes(io.RawIOBase):
    """Keeps what each write to a file descriptor would have been."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.calls.append(bytes(data))
        return len(data)


@pytest.mark.parametrize("unbuffered", [True, False])
def test_an_event_is_one_write_so_that_no_other_process_writes_into_it(*, unbuffered: bool) -> None:
    """Both kinds of standard output that Python has; print() makes two writes of a line where unbuffered."""
    writes = Writes()
    binary = writes if unbuffered else io.BufferedWriter(writes)
    log = EventLog(0, io.TextIOWrapper(cast("Any", binary), write_through=unbuffered))
    log.step(0, 16, 1.0, 2.0, "train")
    log.event("framework", {"name": "x" * 20_000})
    assert 2 == len(writes.calls)
    assert all(call.startswith(b":::MLLOG ") and call.endswith(b"}\n") for call in writes.calls)


@given(steps_strategy.filter(bool), st.data())
def test_a_cut_anywhere_loses_no_whole_line(
    steps: Sequence[tuple[float, float | None, str]], data: st.DataObject
) -> None:
    text = "\n".join(written(steps))
    cut = data.draw(st.integers(0, len(text)))
    whole = text[:cut].count("\n") + (cut == len(text))
    assert len(read_steps(read_events(text[:cut].split("\n")))) in {whole, whole + 1}


@given(st.lists(st.text(max_size=80), max_size=8))
def test_no_text_raises(lines: list[str]) -> None:
    read_steps(read_events([f":::MLLOG {line}" for line in lines]))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=5))
def test_no_json_value_in_any_place_raises(value: object) -> None:
    event = {
        "namespace": "dlperf",
        "key": "tracked_stats",
        "value": {"seconds": 1.0, "loss": 2.0},
        "metadata": {"rank": 0, "step": 0, "samples": 8, "kind": "train"},
    }
    for broken in (
        {**event, "value": value},
        {**event, "metadata": value},
        {**event, "key": value},
        {**event, "value": {"seconds": value}},
        {**event, "value": {"seconds": 1.0, "loss_text": value}},
        {**event, "metadata": {**event["metadata"], "step": value}},
        {**event, "metadata": {**event["metadata"], "samples": value}},
    ):
        text = ":::MLLOG " + json.dumps(broken)
        assert all(step.seconds > 0 for step in read_steps(read_events([text])))


def test_two_events_that_share_a_line_are_both_read() -> None:
    first, second = written([(1.0, 2.0, "train"), (1.5, 1.0, "train")])
    assert len(read_steps(read_events([first + second]))) == 2


def test_an_event_torn_by_another_is_lost_and_the_other_is_kept() -> None:
    first, second = written([(1.0, 2.0, "train"), (1.5, 1.0, "train")])
    assert [step.step for step in read_steps(read_events([first[:40] + second]))] == [1]


def test_an_event_inside_a_text_of_an_event_is_no_event() -> None:
    inner = written([(1.0, 2.0, "train")])[0]
    outer = ":::MLLOG " + json.dumps({"namespace": "dlperf", "key": "note", "value": inner, "metadata": {}})
    assert [event.key for event in read_events([outer])] == ["note"]


def test_prefixes_of_launchers_do_not_matter() -> None:
    line = written([(1.0, 2.0, "train")])[0]
    for prefix in ("[1,0]<stdout>:", "0: ", "[rank0]:", "2026-01-01T00:00:00Z ", "\x1b[32m"):
        assert len(read_steps(read_events([prefix + line]))) == 1, prefix


def test_other_programs_events_are_not_ours() -> None:
    line = written([(1.0, 2.0, "train")])[0].replace('"dlperf"', '"other"')
    assert list(read_events([line])) == []


def test_each_rank_has_its_own_series() -> None:
    lines = [
        line
        for both in zip(
            written([(1.0, 2.0, "train")] * 3), written([(9.0, 2.0, "train")] * 3, rank=1), strict=True
        )
        for line in both
    ]
    assert [step.seconds for step in read_steps(read_events(lines))] == [1.0, 1.0, 1.0]
    assert [step.seconds for step in read_steps(read_events(lines), rank=1)] == [9.0, 9.0, 9.0]


def test_of_two_runs_in_one_log_the_last_counts() -> None:
    lines = written([(1.0, 2.0, "train")] * 5) + written([(3.0, 2.0, "train")] * 2)
    assert [step.seconds for step in read_steps(read_events(lines))] == [3.0, 3.0]


def test_a_started_run_forgets_the_one_before() -> None:
    stream = io.StringIO()
    EventLog(0, stream).event("run_start")
    lines = written([(1.0, 2.0, "train")] * 2) + stream.getvalue().splitlines()
    assert read_steps(read_events(lines)) == ()


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_keeps_its_name(loss: float) -> None:
    (step,) = read_steps(read_events(written([(1.0, loss, "train")])))
    assert same_loss(step.loss, loss)


def test_a_step_knows_its_line() -> None:
    (event,) = read_events(["noise", *written([(1.0, 2.0, "train")])])
    assert step_of(event) == Step(step=0, samples=16, seconds=1.0, kind="train", loss=2.0, line=2)


@pytest.mark.parametrize("seconds", [0, -1.0, True, "1", None, 1e400, 10**400])
def test_a_step_that_took_no_time_is_no_step(seconds: object) -> None:
    line = json.dumps(
        {
            "namespace": "dlperf",
            "key": "tracked_stats",
            "value": {"seconds": seconds},
            "metadata": {"rank": 0, "step": 0, "samples": 8, "kind": "train"},
        }
    )
    assert read_steps(read_events([f":::MLLOG {line}"])) == ()
