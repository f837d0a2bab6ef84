"""A frozen plan, run by run: what is done stays, what is missing is made, one failure stops nothing."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dlperf.environments import ensure
from dlperf.errors import EnvironmentUnavailable, InfrastructureError, UserError
from dlperf.results.schema import FAILED, RunResult, Status
from dlperf.running.preparation import specification
from dlperf.running.run_folder import CASE_NAME, RESULT_NAME, run_folder
from dlperf.running.runner import salvaged, store_unmeasured

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dlperf.adapters.base import Adapter
    from dlperf.environments import Environment
    from dlperf.plan.case import Case
    from dlperf.plan.order import PlannedRun
    from dlperf.plan.plan import Plan
    from dlperf.running.progress import Progress
    from dlperf.running.runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A result and the folder that it lies in."""

    folder: Path
    result: RunResult


def pending_runs(plan: Plan, *, results: Path, retry_failed: bool) -> tuple[PlannedRun, ...]:
    """The runs of the plan that are to be made, in its order.

    A run with a whole result is done; one that failed is made again if `retry_failed`; one that could not be
    started is always tried again, as the environment may exist by now.
    """
    again = {Status.NOT_MEASURED, *(FAILED if retry_failed else ())}

    def is_missing(run: PlannedRun) -> bool:
        stored = read_result(run_folder(results, case_id=run.case_id, repeat=run.repeat))
        return stored is None or stored.status in again

    return tuple(run for run in plan.runs if is_missing(run))


def stored_results(plan: Plan, *, results: Path) -> tuple[StoredResult, ...]:
    """The results of the plan's runs that are there, in its order."""
    folders = (run_folder(results, case_id=run.case_id, repeat=run.repeat) for run in plan.runs)
    found = ((folder, read_result(folder)) for folder in folders)
    return tuple(StoredResult(folder=folder, result=result) for folder, result in found if result is not None)


def read_result(folder: Path) -> RunResult | None:
    """The result of a run folder; None where there is none, or none that this dlperf can read."""
    try:
        return RunResult.model_validate_json((folder / RESULT_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


@dataclass(kw_only=True)
class Scheduler:
    """Makes the pending runs of a plan in a results folder that the caller holds alone."""

    plan: Plan
    results: Path
    adapters: Mapping[str, Adapter]
    progress: Progress
    _environments: dict[str, Environment | EnvironmentUnavailable] = field(default_factory=dict)
    _in_use: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._cases = {case.case_id: case for case in self.plan.runnable}

    def prepare(self, runs: tuple[PlannedRun, ...]) -> None:
        """Make all environments before anything is measured; one that fails takes its own cases out alone."""
        for case in dict.fromkeys(self._cases[run.case_id].case_id for run in runs):
            self._environment(self._cases[case])

    def run(self, runs: tuple[PlannedRun, ...], *, runner: Runner) -> None:
        """Make the runs in their order.

        Raises:
            Interrupted: a signal; what is done is stored.
            InfrastructureError: a node or a disk failed, not a case.
        """
        with self._in_use:
            for run in runs:
                runner.interrupts.check()
                try:
                    result = self._made(run, runner)
                except OSError as error:
                    raise InfrastructureError(
                        f"{error.filename or self.results}: {error.strerror or error}; what is done is kept: "
                        "put it right and start again"
                    ) from error
                self.progress.ended(result)

    def _made(self, run: PlannedRun, runner: Runner) -> RunResult:
        case = self._cases[run.case_id]
        folder = run_folder(self.results, case_id=run.case_id, repeat=run.repeat)
        if (folder / CASE_NAME).exists() and not (folder / RESULT_NAME).exists():
            result = salvaged(folder)
            if result is not None:
                return result
        environment = self._environment(case)
        if isinstance(environment, EnvironmentUnavailable):
            return store_unmeasured(case, repeat=run.repeat, folder=folder, reason=str(environment))
        return runner.run(
            case,
            repeat=run.repeat,
            folder=folder,
            adapter=self.adapters[case.framework],
            environment=environment,
        )

    def _environment(self, case: Case) -> Environment | EnvironmentUnavailable:
        several = " with several devices" if case.topology.world_size > 1 else ""
        key = f"{case.framework}=={case.version} on {case.device}{several}"
        if key not in self._environments:
            self._environments[key] = self._made_environment(case)
        return self._environments[key]

    def _made_environment(self, case: Case) -> Environment | EnvironmentUnavailable:
        spec, python = specification(case, adapter=self.adapters[case.framework], plan=self.plan)
        try:
            environment = ensure(spec, python=python, report=self.progress.message)
            self._in_use.enter_context(environment.in_use())
        except EnvironmentUnavailable as error:
            self.progress.message(f"{case.framework} {case.version} is left out: {error}")
            return error
        return environment


def must_fit(plan: Plan, adapters: Mapping[str, Adapter]) -> None:
    """Raise UserError where a frozen plan names a framework that this installation lacks."""
    missing = sorted({case.framework for case in plan.runnable} - set(adapters))
    if missing:
        raise UserError(f"no adapter for {', '.join(missing)}; install the package that brings it")
