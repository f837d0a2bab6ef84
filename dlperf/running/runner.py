"""One run: write its folder, start it, watch it, store its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlperf import __version__
from dlperf.errors import InfrastructureError
from dlperf.logs.events import read_events, step_of
from dlperf.results.outcome import read_outcome
from dlperf.results.schema import RunResult, Status
from dlperf.results.store import store_run, write_atomically, write_result
from dlperf.running.launch_file import LEASE_SECONDS
from dlperf.running.places import free_port
from dlperf.running.preparation import local_launch
from dlperf.running.provenance import run_environment
from dlperf.running.run_folder import (
    CASE_NAME,
    ENVIRONMENT_NAME,
    LAUNCH_NAME,
    OUTCOME_NAME,
    empty_folder,
    wait_until_deserted,
)
from dlperf.running.supervised import SupervisedRun

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.adapters.base import Adapter
    from dlperf.environments import Environment
    from dlperf.model import Model
    from dlperf.plan.case import Case
    from dlperf.plan.sweep_file import Limits
    from dlperf.results.outcome import Outcome
    from dlperf.running.interrupts import Interrupts
    from dlperf.running.progress import Progress
    from dlperf.running.transports.base import Transport

# The supervisor's exit codes for a launch file that it cannot read and an outcome that it cannot write.
_SUPERVISOR_BROKEN = frozenset({2, 5})
# Ends that say nothing about the case.
_ENDED_FROM_OUTSIDE = frozenset({"lease_lost", "stopped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Makes single runs; everything that stays the same from run to run."""

    transport: Transport
    limits: Limits
    interrupts: Interrupts
    progress: Progress
    port: int | None = None  # where the ranks of a case meet; None: a free one for each run

    def run(
        self, case: Case, *, repeat: int, folder: Path, adapter: Adapter, environment: Environment
    ) -> RunResult:
        """Run `case` once in `folder` and store the result there.

        Raises:
            Interrupted: a signal stopped the run; it has no result, and nothing of it is left running.
            InfrastructureError: the node, not the case, failed.
        """
        empty_folder(folder)
        launch = local_launch(
            case,
            adapter=adapter,
            python=environment.python,
            folder=folder,
            limits=self.limits,
            port=self.port or free_port(),
        )
        _write(folder / CASE_NAME, case)
        _write(folder / ENVIRONMENT_NAME, run_environment(environment, launch))
        _write(folder / LAUNCH_NAME, launch)
        self.progress.started(case, repeat=repeat)
        with self.interrupts.held():
            connection = self.transport.open(folder, node_rank=0)
            with SupervisedRun(connection, lease_seconds=LEASE_SECONDS) as run:
                self.interrupts.attach(run)
                self._watch(run)
                code, complaint = connection.exit_code(), connection.complaint()
            self.transport.bring_back(folder, node_rank=0)
        outcome = read_outcome(folder / OUTCOME_NAME)
        if outcome is None or outcome.reason != "completed":
            self.interrupts.check()
        _must_be_told(outcome, code=code, complaint=complaint)
        return store_run(folder)

    def _watch(self, run: SupervisedRun) -> None:
        for event in run.events():
            self.progress.ticked()
            kind = event.get("event") if event else None
            if event and kind == "output":
                self._show(event.get("text"))
            elif event and kind == "finished" and event["outcome"]["processes_left"]:
                left = " ".join(map(str, event["outcome"]["processes_left"]))
                self.progress.message(
                    f"SIGKILL does not end process {left}: it waits in the kernel and may disturb later runs"
                )

    def _show(self, text: Any) -> None:
        for found in read_events([str(text)]):
            step = step_of(found)
            if step is not None and found.rank == 0:
                self.progress.stepped(step)


def _must_be_told(outcome: Outcome | None, *, code: int | None, complaint: str) -> None:
    """Raise InfrastructureError where how the run ended says nothing about its case."""
    if outcome is None and code in _SUPERVISOR_BROKEN:
        raise InfrastructureError(f"the supervisor could not do its work: {complaint or f'exit code {code}'}")
    if outcome is not None and outcome.reason == "lease_lost":
        raise InfrastructureError(
            f"dlperf itself stood still for more than {LEASE_SECONDS:g} s (was it suspended?), so the run "
            "was ended; start again to go on"
        )


def store_unmeasured(case: Case, *, repeat: int, folder: Path, reason: str) -> RunResult:
    """Store that a run could not even be started, and why."""
    empty_folder(folder)
    _write(folder / CASE_NAME, case)
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


def _write(path: Path, content: Model) -> None:
    write_atomically(path, (content.model_dump_json(indent=1) + "\n").encode())
