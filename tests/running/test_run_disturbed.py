"""Runs beside other work: they are disturbed, run again, and get a figure once the machine is quiet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest
from sweep_lab import SweepLab

from dlperf.cli.run import _Quiet
from dlperf.plan.case import Measure
from dlperf.plan.plan import Plan
from dlperf.results.schema import Status
from dlperf.running.busy import Busy, BusyProcess
from dlperf.running.transports.base import Node, NodeLost
from dlperf.running.transports.local import this_machine_busy

pytestmark = pytest.mark.slow

# Other tests may take half of a CPU; ten busy loops on two take four fifths of it.
LIMIT = 0.72
BUSY_LOOPS = 10


@contextmanager
def busy_loops(count: int = BUSY_LOOPS) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            # In sessions of their own, as the kernel may divide the CPUs among sessions (autogroup).
            command = [sys.executable, "-c", "while True: pass"]
            process = subprocess.Popen(command, start_new_session=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


@pytest.mark.quiet
def test_disturbed_runs_run_again_at_most_twice_and_once_more_when_it_is_quiet(lab: SweepLab) -> None:
    lab.write(
        batch_size_per_device=64,
        measure={
            "warmup_iterations": 1,
            "measured_iterations": 59,
            "repeats": 2,
            "max_interference": LIMIT,
        },
    )
    with busy_loops(4):
        done = lab.run()
    assert done.returncode == 3, done.stdout + done.stderr
    assert [Status.DISTURBED] * 2 == [result.status for result in lab.stored()]
    assert done.stderr.count("it will run again") == 4
    assert "other work took" in done.stdout
    for result in lab.stored():
        assert result.interference is not None
        assert result.interference.share > LIMIT
        assert result.figures is None

    done = lab.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [Status.OK] * 2 == [result.status for result in lab.stored()]


def test_the_machine_names_what_keeps_it_busy() -> None:
    with busy_loops(4):
        found = this_machine_busy()
    assert found.share > 0.5
    assert any(process.command.startswith("python") for process in found.processes)


def test_a_busy_machine_in_words() -> None:
    processes = (
        BusyProcess(pid=12, command="stress", share=1.3),
        BusyProcess(pid=9, command="cc1plus", share=0.6),
    )
    found = Busy(share=0.97, cpus=2, processes=processes)
    assert str(found) == "97% of 2 CPUs, most of it by stress (pid 12, 1.3 CPUs), cc1plus (pid 9, 0.6 CPUs)"
    assert str(Busy(share=0.01, cpus=1)) == "1% of 1 CPU"


@pytest.mark.parametrize(
    ("share", "process", "limit", "expected"),
    [
        (0.04, 0.1, 0.05, False),
        (0.06, 0.1, 0.05, True),
        (0.01, 0.9, 0.05, True),  # one busy CPU of many, which a rank may need
        (0.06, 0.6, 0.7, False),
    ],
)
def test_what_counts_as_busy(share: float, process: float, limit: float, *, expected: bool) -> None:
    busy = Busy(share=share, cpus=64, processes=(BusyProcess(pid=7, command="cc1plus", share=process),))
    assert expected == busy.exceeds(limit)


@dataclass
class BusyNode:
    """A node that is as busy as told: the share of each look, the last one for ever."""

    name: str
    shares: list[float]
    remote: bool = True
    trouble: str | None = None

    def busy(self) -> Busy:
        share = self.shares.pop(0) if len(self.shares) > 1 else self.shares[0]
        if share < 0:
            raise NodeLost(cast("Node", self), "no sign of life")
        return Busy(share=share, cpus=2)


class TestWaitForQuiet:
    """What `dlperf run` says of busy nodes, and how long it waits."""

    @pytest.fixture
    def said(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr("dlperf.cli.run._QUIET_POLL_SECONDS", 0.0)
        return []

    @staticmethod
    def quiet(said: list[str], *nodes: BusyNode, most: float = 0.05, limit_seconds: float = 0) -> _Quiet:
        measure = Measure(max_interference=most)
        plan = SimpleNamespace(runnable=[SimpleNamespace(measure=measure)])
        return _Quiet(
            nodes=cast("Sequence[Node]", nodes),
            plan=cast("Plan", plan),
            limit_seconds=limit_seconds,
            say=said.append,
        )

    def test_the_busy_ones_are_named_in_one_line(self, said: list[str]) -> None:
        gone = BusyNode("d", [0.9], trouble="lost")
        nodes = BusyNode("a", [0.5]), BusyNode("b", [0.0]), BusyNode("c", [-1.0]), gone
        self.quiet(said, *nodes).say_if_busy()
        self.quiet(said, BusyNode("vm", [0.97], remote=False)).say_if_busy()
        told = "runs that it disturbs are marked and have no figure"
        told += "; starting anyway: --wait-for-quiet 10m would wait"
        assert [
            f"a is busy with other work: 50% of 2 CPUs; {told}",
            f"this machine is busy with other work: 97% of 2 CPUs; {told}",
        ] == said

    def test_a_quiet_machine_is_no_news(self, said: list[str]) -> None:
        quiet = self.quiet(said, BusyNode("a", [0.01]), limit_seconds=60)
        quiet.say_if_busy()
        quiet.wait()
        assert [] == said

    def test_it_waits_until_two_looks_in_a_row_are_quiet(self, said: list[str]) -> None:
        node = BusyNode("a", [0.9, 0.8, 0.0, 0.8, 0.7, 0.0, 0.0, 0.6])
        quiet = self.quiet(said, node, limit_seconds=60)
        quiet.say_if_busy()
        quiet.wait()
        assert [0.6] == node.shares
        assert [
            "a is busy with other work: 90% of 2 CPUs; runs that it disturbs are marked and have no figure",
            "waiting up to 60 s for the other work to end",
            "quiet now; starting",
        ] == said

    def test_it_starts_when_the_limit_has_passed(self, said: list[str]) -> None:
        self.quiet(said, BusyNode("a", [0.9]), limit_seconds=0.01).wait()
        assert "a is busy with other work: 90% of 2 CPUs; starting anyway" == said[-1]

    def test_it_does_not_look_where_no_run_can_be_disturbed_or_nobody_waits(self, said: list[str]) -> None:
        quiet = self.quiet(said, BusyNode("a", [0.9]), most=1.0, limit_seconds=60)
        quiet.say_if_busy()
        quiet.wait()
        self.quiet(said, BusyNode("a", [0.9])).wait()
        assert [] == said


def test_a_run_says_at_its_start_what_keeps_the_machine_busy_and_at_its_end_what_to_do(lab: SweepLab) -> None:
    lab.write(measure={"warmup_iterations": 1, "measured_iterations": 59, "max_interference": LIMIT})
    with busy_loops():
        done = lab.run("--wait-for-quiet", "1s")
    first, *others = done.stderr.splitlines()
    assert first.startswith("this machine is busy with other work: ")
    assert "python" in first
    assert "starting anyway" in "\n".join(others)
    if lab.stored()[0].status is Status.DISTURBED:
        assert "Disturbed runs have no figure. To repeat them on a quiet machine: dlperf run " in done.stdout
        assert "--retry-failed" not in done.stdout
