"""A frozen plan, run by run: what is done stays, what is missing is made, one failure stops nothing else."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dlperf.adapters.base import Adapter
from dlperf.environments import Environment
from dlperf.errors import EnvironmentUnavailable, InfrastructureError, UserError
from dlperf.layout import CASE_NAME, RESULT_NAME, run_folder
from dlperf.plan.case import Case
from dlperf.plan.plan import Plan, PlannedRun
from dlperf.results.schema import RunResult, Status
from dlperf.running.launch import specification
from dlperf.running.run import NodeUnfit, Progress, ReadyNode, Runner, salvaged, store_unmeasured
from dlperf.running.transports.base import Node, NodeLost, each


@dataclass(kw_only=True)
class Pool:
    """Nodes in the order of the cluster file. A case takes whole nodes, the first that are free. Thread-safe.

    `usable` says whether a node has the case's environment.
    """

    nodes: Sequence[Node]
    usable: Callable[[Node, Case], bool]
    _busy: set[str] = field(default_factory=set)
    _aside: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, case: Case) -> tuple[Node, ...] | None:
        """Nodes for the case, at work until they are given back; None where too few are free."""
        with self._lock:
            free = (node for node in self._fitting(case) if node.name not in self._busy)
            taken = tuple(itertools.islice(free, case.topology.nodes))
            if len(taken) < case.topology.nodes:
                return None
            self._busy |= {node.name for node in taken}
            return taken

    def give_back(self, nodes: Sequence[Node]) -> None:
        """They are free again, unless they were set aside meanwhile."""
        with self._lock:
            self._busy -= {node.name for node in nodes}

    def could_take(self, case: Case) -> bool:
        """Whether there are nodes for the case once all are free."""
        enough = tuple(itertools.islice(self._fitting(case), case.topology.nodes))
        return len(enough) == case.topology.nodes

    def lacks_environment(self, case: Case) -> bool:
        """Whether nodes enough are there, and too few of them have the case's environment."""
        if self.could_take(case):  # asked first: a node that is lost in answering is not there
            return False
        there = [node for node in self.nodes if node.name not in self._aside and node.fits(case)]
        return len(there) >= case.topology.nodes

    def set_aside(self, node: Node, reason: str) -> None:
        """Give the node nothing more to do."""
        self._aside[node.name] = reason

    def take_in(self, node: Node) -> None:
        """It works again."""
        self._aside.pop(node.name, None)

    @property
    def aside(self) -> dict[str, str]:
        """Names of the nodes that were set aside, and why."""
        return dict(self._aside)

    def _fitting(self, case: Case) -> Iterator[Node]:
        return (
            node
            for node in self.nodes
            if node.name not in self._aside and node.fits(case) and self.usable(node, case)
        )


# A frozen plan, run by run: what is done stays, what is missing is made, one failure stops nothing else.


# A case whose nodes are lost again and again may be what takes them down.
_MOST_LOSSES = 2
# A node that answers and starts nothing is no node: it would be taken back and set aside for ever.
_MOST_FAILED_STARTS = 3
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0


@dataclass(kw_only=True)
class Scheduler:
    """Makes the pending runs of a plan in a results folder that the caller holds alone.

    Attributes:
        plan: what is run.
        results: where.
        adapters: by name.
        progress: is told.
        nodes: this machine alone, or those of a cluster, which the caller holds alone.
        wait_for_nodes_seconds: how long runs wait for nodes that were set aside.
        parallel_nodes: how many single-node runs go on at a time, each on its own node.
    """

    plan: Plan
    results: Path
    adapters: Mapping[str, Adapter]
    progress: Progress
    nodes: Sequence[Node]
    wait_for_nodes_seconds: float = 0.0
    parallel_nodes: int = 1
    _environments: dict[tuple[str, str], Environment | EnvironmentUnavailable] = field(default_factory=dict)
    _losses: Counter[PlannedRun] = field(default_factory=Counter)
    _failed_starts: Counter[str] = field(default_factory=Counter)  # by node, since its last run

    def __post_init__(self) -> None:
        self._cases = {case.case_id: case for case in self.plan.runnable}
        self._pool = Pool(nodes=self.nodes, usable=self._has_environment)
        for node in self.nodes:
            if node.trouble is not None:
                self._set_aside(node, node.trouble)

    def prepare(self, runs: Sequence[PlannedRun]) -> None:
        """Make all environments before anything is measured; one that fails takes its own cases out alone."""
        cases = {_environment_key(case): case for case in (self._cases[run.case_id] for run in runs)}
        wanted = [(node, case) for case in cases.values() for node in self.nodes if node.trouble is None]
        each(wanted, lambda pair: self._environment(*pair))

    def run(self, runs: Sequence[PlannedRun], *, runner: Runner) -> None:
        """Make the runs, in their order as far as there are nodes for them.

        Raises:
            Interrupted: a signal; what is done is stored.
            InfrastructureError: this machine failed, or no node is left for some runs.
        """
        left = list(runs)
        while left:
            single = [run for run in left if self._cases[run.case_id].topology.nodes == 1]
            parallel = single if self.parallel_nodes > 1 else []
            sequential = [run for run in left if run not in parallel]
            left = self._run_in_parallel(parallel, runner) if parallel else []
            left += self._run_sequentially(sequential, runner)
            if left and not self._node_comes_back(left, runner):
                aside = "; ".join(f"{name}: {reason}" for name, reason in self._pool.aside.items())
                waiting = f"{len(left)} runs wait" if len(left) > 1 else "1 run waits"
                raise InfrastructureError(
                    f"{waiting} for nodes ({aside}); what is done is kept: start again to go on"
                )

    def _run_sequentially(self, runs: Sequence[PlannedRun], runner: Runner) -> list[PlannedRun]:
        """Make runs one after the other; returns those without a node."""
        queue, left = deque(runs), []
        while queue:
            runner.interrupts.check()
            run = queue.popleft()
            nodes = self._pool.take(self._cases[run.case_id])
            if nodes is None and not self._is_settled_without_nodes(run):
                left.append(run)
            elif nodes is not None and not self._is_done(run, nodes, runner):
                queue.append(run)
        return left

    def _run_in_parallel(self, runs: Sequence[PlannedRun], runner: Runner) -> list[PlannedRun]:
        """Make single-node runs on several nodes at a time; returns those without a node."""
        queue, left = deque(runs), []
        halt = threading.Event()

        def work() -> None:
            while not halt.is_set() and not runner.interrupts.pending:
                try:
                    run = queue.popleft()
                except IndexError:
                    return
                case = self._cases[run.case_id]
                nodes = self._pool.take(case)
                if nodes is None and self._pool.could_take(case):
                    queue.appendleft(run)  # more workers than nodes: those that have one go on
                    return
                if nodes is None and not self._is_settled_without_nodes(run):
                    left.append(run)
                elif nodes is not None and not self._is_done(run, nodes, runner):
                    queue.append(run)

        count = min(self.parallel_nodes, len(self.nodes))
        with runner.interrupts.held(), ThreadPoolExecutor(count) as workers:
            going = [workers.submit(work) for _ in range(count)]
            try:
                for future in going:
                    future.result()
            finally:
                halt.set()
        runner.interrupts.check()
        return left + list(queue)

    def _node_comes_back(self, left: Sequence[PlannedRun], runner: Runner) -> bool:
        """Wait for a node that was set aside and can take one of the runs, up to `wait_for_nodes_seconds`."""

        def is_one_for_somebody() -> bool:
            return any(self._pool.could_take(self._cases[run.case_id]) for run in left)

        deadline, pause = time.monotonic() + self.wait_for_nodes_seconds, _FIRST_PAUSE_SECONDS
        if is_one_for_somebody():
            return True
        while time.monotonic() < deadline:
            runner.interrupts.check()
            aside = [node for node in self.nodes if node.name in self._pool.aside]
            worth = [node for node in aside if self._failed_starts[node.name] < _MOST_FAILED_STARTS]
            if not worth:
                return False
            for node in worth:
                self._try_again(node)
            if is_one_for_somebody():
                return True
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return False

    def _try_again(self, node: Node) -> None:
        try:
            node.connect()
        except NodeLost as lost:
            self._pool.set_aside(node, str(lost))
        else:
            self._pool.take_in(node)
            self.progress.message(f"{node.name} is back")

    def _set_aside(self, node: Node, reason: str) -> None:
        self._pool.set_aside(node, reason)
        self.progress.message(f"{node.name} is set aside: {reason}")

    def _is_settled_without_nodes(self, run: PlannedRun) -> bool:
        """Whether a run that got no nodes has its result all the same: its environment cannot be had."""
        case = self._cases[run.case_id]
        if not self._pool.lacks_environment(case):
            return False
        found = (self._environments.get((node.name, _environment_key(case))) for node in self.nodes)
        reason = next(str(error) for error in found if isinstance(error, EnvironmentUnavailable))
        folder = run_folder(self.results, case_id=run.case_id, repeat=run.repeat)
        self.progress.ended(store_unmeasured(case, repeat=run.repeat, folder=folder, reason=reason))
        return True

    def _is_done(self, run: PlannedRun, nodes: Sequence[Node], runner: Runner) -> bool:
        """Make a run on nodes that were taken for it; False where it is to be made again, on others."""
        try:
            result = self._made(run, nodes, runner)
        except NodeUnfit as error:
            self._failed_starts[error.node.name] += 1
            self._set_aside(error.node, str(error))
            return False
        except OSError as error:
            raise InfrastructureError(
                f"{error.filename or self.results}: {error.strerror or error}; what is done is kept: "
                "put it right and start again"
            ) from error
        finally:
            self._pool.give_back(nodes)
        for node in nodes:
            self._failed_starts[node.name] = 0
            if node.trouble is not None:
                self._set_aside(node, node.trouble)
        self._losses[run] += result.status is Status.LOST_NODE
        if result.status is Status.LOST_NODE and self._losses[run] < _MOST_LOSSES:
            name = f"{run.case_id} r{run.repeat}"
            self.progress.message(f"{name}: {result.status}: {result.reason}; it will be made again")
            return False
        self.progress.ended(result)
        return True

    def _made(self, run: PlannedRun, nodes: Sequence[Node], runner: Runner) -> RunResult:
        case = self._cases[run.case_id]
        folder = run_folder(self.results, case_id=run.case_id, repeat=run.repeat)
        if (folder / CASE_NAME).exists() and not (folder / RESULT_NAME).exists():
            result = salvaged(folder)
            if result is not None:
                return result
        ready = [ReadyNode(node=node, environment=self._ready_environment(node, case)) for node in nodes]
        return runner.run(
            case, repeat=run.repeat, folder=folder, adapter=self.adapters[case.framework], nodes=ready
        )

    def _has_environment(self, node: Node, case: Case) -> bool:
        return not isinstance(self._environment(node, case), EnvironmentUnavailable)

    def _ready_environment(self, node: Node, case: Case) -> Environment:
        environment = self._environment(node, case)
        if isinstance(environment, EnvironmentUnavailable):
            raise environment
        return environment

    def _environment(self, node: Node, case: Case) -> Environment | EnvironmentUnavailable:
        key = (node.name, _environment_key(case))
        if key not in self._environments:
            try:
                self._environments[key] = self._made_environment(node, case)
            except NodeLost as lost:
                self._set_aside(node, str(lost))
                return EnvironmentUnavailable(str(lost))  # not for good: it may come back
        return self._environments[key]

    def _made_environment(self, node: Node, case: Case) -> Environment | EnvironmentUnavailable:
        spec, python = specification(case, adapter=self.adapters[case.framework], plan=self.plan)
        try:
            return node.environment(spec, python=python)
        except EnvironmentUnavailable as error:
            where = f" on {node.name}" if node.remote else ""
            self.progress.message(f"{case.framework} {case.version} is left out{where}: {error}")
            return error


def _environment_key(case: Case) -> str:
    several = " with several devices" if case.topology.world_size > 1 else ""
    return f"{case.framework}=={case.version} on {case.device}{several}"


def must_fit(plan: Plan, adapters: Mapping[str, Adapter]) -> None:
    """Raise UserError where a frozen plan names a framework that this installation lacks."""
    missing = sorted({case.framework for case in plan.runnable} - set(adapters))
    if missing:
        raise UserError(f"no adapter for {', '.join(missing)}; install the package that brings it")
