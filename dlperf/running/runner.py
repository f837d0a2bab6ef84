"""One run: write its folder, start it, watch it, store its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlperf import __version__
from dlperf.errors import InfrastructureError
from dlperf.logs.events import read_events, step_of
from dlperf.results.outcome import read_outcome
from dlperf.results.schema import RunResult, Status
from dlperf.results.store import store_run, write_result
from dlperf.running.course import Course
from dlperf.running.launch_file import LEASE_SECONDS
from dlperf.running.run_folder import CASE_NAME, OUTCOME_NAME, empty_folder, wait_until_deserted
from dlperf.running.run_nodes import (
    NodeUnfit,
    ReadyNode,
    brought_back,
    opened,
    write_combined,
    write_model,
    write_run_folder,
)
from dlperf.running.supervised import SupervisedRun

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.adapters.base import Adapter
    from dlperf.plan.case import Case
    from dlperf.plan.sweep_file import Limits
    from dlperf.results.outcome import Outcome
    from dlperf.running.interrupts import Interrupts
    from dlperf.running.progress import Progress
    from dlperf.running.transports.base import Connection, Node

# The supervisor's exit codes for a launch file that it cannot read and an outcome that it cannot write.
_SUPERVISOR_BROKEN = frozenset({2, 5})
# Ends that say nothing about the case.
_ENDED_FROM_OUTSIDE = frozenset({"lease_lost", "stopped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Makes single runs; everything that stays the same from run to run."""

    limits: Limits
    interrupts: Interrupts
    progress: Progress
    port: int | None = None  # where the ranks of a case meet; None: a free one for each run

    def run(
        self, case: Case, *, repeat: int, folder: Path, adapter: Adapter, nodes: Sequence[ReadyNode]
    ) -> RunResult:
        """Run `case` once on `nodes`, by node rank, with everything in `folder`, and store the result there.

        Raises:
            Interrupted: a signal stopped the run; it has no result, and nothing of it is left running.
            NodeUnfit: the run could not be started on a node of a cluster.
            InfrastructureError: this machine, not the case, failed.
        """
        empty_folder(folder)
        write_run_folder(folder, case, adapter=adapter, nodes=nodes, limits=self.limits, port=self.port)
        self.progress.started(case, repeat=repeat)
        machines = [ready.node for ready in nodes]
        with self.interrupts.held():
            connections = opened(folder, machines)
            with SupervisedRun(connections, lease_seconds=LEASE_SECONDS) as run:
                self.interrupts.attach(run)
                course = self._watch(run, connections)
                ends = [(connection.exit_code(), connection.complaint()) for connection in connections]
            lost = brought_back(folder, machines, codes=[code for code, _ in ends])
        if lost or len(nodes) > 1:
            write_combined(folder, machines, course=course, lost=lost)
        outcome = read_outcome(folder / OUTCOME_NAME)
        if outcome is None or outcome.reason != "completed":
            self.interrupts.check()
        for node, (code, complaint) in zip(machines, ends, strict=True):
            _must_be_told(node, outcome, code=code, complaint=complaint)
        return store_run(folder)

    def _watch(self, run: SupervisedRun, connections: Sequence[Connection]) -> Course:
        """Follow the run to its end; trouble on one node ends it on the others at once."""
        course, told = Course(), False
        for heard in run.events():
            self.progress.ticked()
            if heard is None:
                continue
            node, event = heard
            if event is None:
                course.ended(node, code=connections[node].exit_code())
            else:
                course.hear(node, event)
                self._show(event)
            if course.broken is not None and not told:
                run.kill(spare=course.broken)
                told = True
        return course

    def _show(self, event: dict[str, Any]) -> None:
        if event.get("event") == "output":
            for found in read_events([str(event.get("text"))]):
                step = step_of(found)
                if step is not None and found.rank == 0:
                    self.progress.stepped(step)
        elif event.get("event") == "finished" and event["outcome"]["processes_left"]:
            left = " ".join(map(str, event["outcome"]["processes_left"]))
            self.progress.message(
                f"SIGKILL does not end process {left}: it waits in the kernel and may disturb later runs"
            )


def _must_be_told(node: Node, outcome: Outcome | None, *, code: int | None, complaint: str) -> None:
    """Raise InfrastructureError where how the run ended says nothing about its case."""
    if outcome is None and code in _SUPERVISOR_BROKEN:
        reason = f"the supervisor could not do its work: {complaint or f'exit code {code}'}"
        raise NodeUnfit(node, reason) if node.remote else InfrastructureError(reason)
    if outcome is not None and outcome.reason == "lease_lost":
        raise InfrastructureError(
            f"dlperf itself stood still for more than {LEASE_SECONDS:g} s (was it suspended?), so the run "
            "was ended; start again to go on"
        )


def store_unmeasured(case: Case, *, repeat: int, folder: Path, reason: str) -> RunResult:
    """Store that a run could not even be started, and why."""
    empty_folder(folder)
    write_model(folder / CASE_NAME, case)
    result = RunResult(
        dlperf_version=__version__, case=case, repeat=repeat, status=Status.NOT_MEASURED, reason=reason
    )
    write_result(folder, result, steps=())
    return result


def salvaged(folder: Path) -> RunResult | None:
    """The result of a run that had come to its own end when dlperf was killed; None where it had not."""
    wait_until_deserted(folder)
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is None or outcome.reason in _ENDED_FROM_OUTSIDE:
        return None
    return store_run(folder)
