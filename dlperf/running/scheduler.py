"""Runs a frozen plan: completed runs stay, missing ones run, and one failure does not stop the others."""

import itertools
import signal
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
from dlperf.plan.machine import Gpu, least_of
from dlperf.plan.plan import Plan, PlannedRun
from dlperf.plan.sources import ProgramFiles, packed
from dlperf.results.schema import RunResult, Status
from dlperf.running.launch import specification
from dlperf.running.run import NodeUnfit, Progress, ReadyNode, Runner, recover_result, store_unmeasured
from dlperf.running.slurm import EXIT_NODES_GONE
from dlperf.running.transports.base import Node, NodeGone, NodeLost, each
from dlperf.wording import plural


@dataclass(kw_only=True)
class NodePool:
    """Nodes in the order of the cluster file. A case gets whole nodes, the first free ones. Thread-safe.

    `has_environment` says whether a node has the case's environment.
    """

    nodes: Sequence[Node]
    has_environment: Callable[[Node, Case], bool]
    _busy: set[str] = field(default_factory=set)
    _unusable: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self, case: Case) -> tuple[Node, ...] | None:
        """Nodes for the case, busy until released; None if too few are free."""
        with self._lock:
            free = (node for node in self._fitting(case) if node.name not in self._busy)
            nodes = tuple(itertools.islice(free, case.topology.nodes))
            if len(nodes) < case.topology.nodes:
                return None
            self._busy |= {node.name for node in nodes}
            return nodes

    def release(self, nodes: Sequence[Node]) -> None:
        """The nodes are free again, unless they were set aside meanwhile."""
        with self._lock:
            self._busy -= {node.name for node in nodes}

    def can_serve(self, case: Case) -> bool:
        """Whether there are enough nodes for the case once all are free."""
        enough = tuple(itertools.islice(self._fitting(case), case.topology.nodes))
        return len(enough) == case.topology.nodes

    def lacks_environment(self, case: Case) -> bool:
        """Whether enough nodes are available, but too few of them have the case's environment."""
        if self.can_serve(case):  # first, because a node may be lost while it answers
            return False
        available = [node for node in self.nodes if node.name not in self._unusable and node.fits(case)]
        return len(available) >= case.topology.nodes

    def set_aside(self, node: Node, reason: str) -> None:
        """Use the node no more until it is taken back."""
        self._unusable[node.name] = reason

    def take_back(self, node: Node) -> None:
        """Use the node again."""
        self._unusable.pop(node.name, None)

    @property
    def unusable(self) -> dict[str, str]:
        """Names of the nodes that are set aside, and why."""
        return dict(self._unusable)

    def _fitting(self, case: Case) -> Iterator[Node]:
        return (
            node
            for node in self.nodes
            if node.name not in self._unusable and node.fits(case) and self.has_environment(node, case)
        )


class OutOfTime(InfrastructureError):
    """Runs are left because the nodes are taken away soon. It exits as after the signal that says so."""

    exit_code = 128 + signal.SIGUSR1


class NodesGone(InfrastructureError):
    """Runs are left for which nodes are missing that do not come back; a further job would have others."""

    exit_code = EXIT_NODES_GONE


# A case that keeps losing its nodes may be the cause.
_MOST_LOSSES = 2
# A machine may never become quiet.
MOST_DISTURBED_REPEATS = 2
# A node that answers but never starts a run would be set aside and taken back forever.
_MOST_FAILED_STARTS = 3
# A run may take so much longer than the last one.
_LONGER = 1.2
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0


@dataclass(kw_only=True)
class Scheduler:
    """Runs the pending runs of a plan in a results folder that the caller has locked."""

    plan: Plan
    results: Path
    adapters: Mapping[str, Adapter]
    progress: Progress
    nodes: Sequence[Node]  # this machine, or those of a cluster, which the caller has locked
    wait_for_nodes_seconds: float = 0.0  # how long runs wait for nodes that were set aside
    parallel_nodes: int = 1  # how many single-node cases run at a time, each on its own node
    ends_at: float | None = None  # when the nodes are taken away, as time.monotonic() counts; None: never
    known_seconds: Mapping[str, float] = field(default_factory=dict)  # of a run of a case before, by case id
    _environments: dict[tuple[str, str], Environment | EnvironmentUnavailable] = field(default_factory=dict)
    _sources: dict[tuple[str, str], Path] = field(default_factory=dict)  # on nodes, by node and content hash
    _losses: Counter[PlannedRun] = field(default_factory=Counter)
    _disturbances: Counter[PlannedRun] = field(default_factory=Counter)
    _gpu: Gpu | None = None  # what builds must run on, where the nodes say more than the plan
    _failed_starts: Counter[str] = field(default_factory=Counter)  # by node, since its last run
    _gone: set[str] = field(default_factory=set)  # nodes that do not come back

    def __post_init__(self) -> None:
        self._cases = {case.case_id: case for case in self.plan.runnable}
        self._seconds = dict(self.known_seconds)
        self._is_out_of_time = False
        self._pool = NodePool(nodes=self.nodes, has_environment=self._has_environment)
        for node in self.nodes:
            if node.trouble is not None:
                self._set_aside(node, node.trouble)

    def prepare(self, runs: Sequence[PlannedRun]) -> None:
        """Create all environments and pack all sources before the first run.

        An environment that fails excludes only its own cases. UserError where a source changed meanwhile.
        """
        for case in {case.content_hash: case for case in (self._cases[run.case_id] for run in runs)}.values():
            self._packed(case)
        self._gpu = self._least_gpu()
        cases = {environment_name(case): case for case in (self._cases[run.case_id] for run in runs)}
        pairs = [(node, case) for case in cases.values() for node in self.nodes if node.trouble is None]
        each(pairs, lambda pair: self._environment(*pair))

    def run(self, runs: Sequence[PlannedRun], *, runner: Runner) -> None:
        """Run the runs, in their order as far as nodes are available.

        Interrupted after a signal, with completed runs stored; InfrastructureError where this machine failed,
        or some runs have no node left.
        """
        left = list(runs)
        while left:
            single = [run for run in left if self._cases[run.case_id].topology.nodes == 1]
            parallel = single if self.parallel_nodes > 1 else []
            sequential = [run for run in left if run not in parallel]
            workers = min(self.parallel_nodes, len(self.nodes))
            left = self._run_all(parallel, runner, workers=workers)
            left += self._run_all(sequential, runner, workers=1)
            if self._is_out_of_time:
                runs_left = plural(len(left), "run is left", "runs are left")
                raise OutOfTime(f"{runs_left}: none can end before the nodes are taken away")
            if left and not self._node_comes_back(left, runner):
                unusable = "; ".join(f"{name}: {reason}" for name, reason in self._pool.unusable.items())
                waiting = plural(len(left), "run is waiting", "runs are waiting")
                error = NodesGone if self._gone else InfrastructureError
                raise error(
                    f"{waiting} for nodes ({unusable}); completed runs are kept: start again to continue"
                )

    def _run_all(self, runs: Sequence[PlannedRun], runner: Runner, *, workers: int) -> list[PlannedRun]:
        """Run with up to `workers` runs at a time; returns the runs that got no node."""
        queue, left = deque(runs), []
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set() and not runner.interrupts.pending:
                try:
                    run = queue.popleft()
                except IndexError:
                    return
                case = self._cases[run.case_id]
                if not self._can_end(run):
                    self._is_out_of_time = True
                    queue.appendleft(run)
                    return
                nodes = self._pool.acquire(case)
                if nodes is None and self._pool.can_serve(case):
                    queue.appendleft(run)  # more workers than nodes: the others continue
                    return
                if nodes is None and not self._store_missing_environment(run):
                    left.append(run)
                elif nodes is not None and not self._run_on(run, nodes, runner):
                    queue.append(run)

        if workers == 1:  # in the main thread, which a signal interrupts
            work()
        else:
            with runner.interrupts.shielded(), ThreadPoolExecutor(workers) as pool:
                futures = [pool.submit(work) for _ in range(workers)]
                try:
                    for future in futures:
                        future.result()
                finally:
                    stop.set()
        runner.interrupts.check()
        return left + list(queue)

    def _can_end(self, run: PlannedRun) -> bool:
        """Whether a run can end while the nodes are there: as runs of its case did, else as the longest."""
        if self.ends_at is None:
            return True
        expected = self._seconds.get(run.case_id, max(self._seconds.values(), default=0.0))
        return time.monotonic() + _LONGER * expected < self.ends_at

    def _node_comes_back(self, left: Sequence[PlannedRun], runner: Runner) -> bool:
        """Wait up to `wait_for_nodes_seconds` until one of the runs can have nodes again."""

        def can_run() -> bool:
            return any(self._pool.can_serve(self._cases[run.case_id]) for run in left)

        deadline, pause = time.monotonic() + self.wait_for_nodes_seconds, 0.0
        while not can_run():
            runner.interrupts.check()
            unusable = [node for node in self.nodes if node.name in self._pool.unusable]
            candidates = [node for node in unusable if self._may_come_back(node)]
            left_seconds = deadline - time.monotonic()
            if not candidates or left_seconds <= 0:
                return False
            time.sleep(min(pause, left_seconds))
            for node in candidates:
                self._reconnect(node)
            pause = min(max(2 * pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        return True

    def _may_come_back(self, node: Node) -> bool:
        return node.name not in self._gone and self._failed_starts[node.name] < _MOST_FAILED_STARTS

    def _reconnect(self, node: Node) -> None:
        try:
            node.connect()
        except NodeGone as gone:
            self._gone.add(node.name)
            self._set_aside(node, str(gone))
        except NodeLost as lost:
            self._pool.set_aside(node, str(lost))
        else:
            self._pool.take_back(node)
            self.progress.message(f"{node.name} is back")

    def _set_aside(self, node: Node, reason: str) -> None:
        self._pool.set_aside(node, reason)
        self.progress.message(f"{node.name} is set aside: {reason}")

    def _store_missing_environment(self, run: PlannedRun) -> bool:
        """Store why a run cannot start, if it got no nodes because its environment is unavailable."""
        case = self._cases[run.case_id]
        if not self._pool.lacks_environment(case):
            return False
        environments = (self._environments.get((node.name, environment_name(case))) for node in self.nodes)
        reason = next(str(error) for error in environments if isinstance(error, EnvironmentUnavailable))
        folder = run_folder(self.results, case_id=run.case_id, repeat=run.repeat)
        self.progress.ended(store_unmeasured(case, repeat=run.repeat, folder=folder, reason=reason))
        return True

    def _run_on(self, run: PlannedRun, nodes: Sequence[Node], runner: Runner) -> bool:
        """Run on the acquired nodes and release them; False if the run must be repeated on others."""
        try:
            result = self._result_of(run, nodes, runner)
        except NodeUnfit as error:
            self._failed_starts[error.node.name] += 1
            self._set_aside(error.node, str(error))
            return False
        except OSError as error:
            raise InfrastructureError(
                f"{error.filename or self.results}: {error.strerror or error}; completed runs are kept: "
                "fix it and start again"
            ) from error
        finally:
            self._pool.release(nodes)
        for node in nodes:
            self._failed_starts[node.name] = 0
            if node.trouble is not None:
                self._set_aside(node, node.trouble)
        self._losses[run] += result.status is Status.LOST_NODE
        if result.status is Status.LOST_NODE and self._losses[run] < _MOST_LOSSES:
            name = f"{run.case_id} r{run.repeat}"
            self.progress.message(f"{name}: {result.status}: {result.reason}; it will run again")
            return False
        self._disturbances[run] += result.status is Status.DISTURBED
        if result.status is Status.DISTURBED and self._disturbances[run] <= MOST_DISTURBED_REPEATS:
            self.progress.message(f"{run.case_id} r{run.repeat}: {result.reason}; it will run again")
            return False
        if result.seconds is not None:
            self._seconds[run.case_id] = result.seconds
        self.progress.ended(result)
        return True

    def _result_of(self, run: PlannedRun, nodes: Sequence[Node], runner: Runner) -> RunResult:
        case = self._cases[run.case_id]
        folder = run_folder(self.results, case_id=run.case_id, repeat=run.repeat)
        if (folder / CASE_NAME).exists() and not (folder / RESULT_NAME).exists():
            result = recover_result(folder)
            if result is not None:
                return result
        ready = [
            ReadyNode(
                node=node,
                environment=self._ready_environment(node, case),
                source=self._source(node, case),
            )
            for node in nodes
        ]
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
        key = (node.name, environment_name(case))
        if key not in self._environments:
            try:
                self._environments[key] = self._create_environment(node, case)
            except NodeLost as lost:
                self._set_aside(node, str(lost))
                return EnvironmentUnavailable(str(lost))  # not stored: the node may come back
        return self._environments[key]

    def _packed(self, case: Case) -> Path | None:
        """The files of the case's original program in the cache of this machine; None where it has none."""
        needed = self.adapters[case.framework].source
        if case.source is None or needed is None:
            return None
        digest = case.source.content_hash
        if ("", digest) not in self._sources:
            files = ProgramFiles(source=case.source, checkout=Path(self.plan.checkouts[digest]))
            self._sources["", digest] = packed(files, folders=needed.folders)
        return self._sources["", digest]

    def _source(self, node: Node, case: Case) -> Path | None:
        """The same on a node; NodeUnfit where it cannot be brought there."""
        here = self._packed(case)
        if here is None:
            return None
        key = (node.name, here.name)
        if key not in self._sources:
            try:
                self._sources[key] = node.source(here)
            except NodeLost as lost:
                raise NodeUnfit(node, str(lost)) from lost
        return self._sources[key]

    def _least_gpu(self) -> Gpu | None:
        """What a build must run on to run on every node: ranks of different builds would be one run."""
        planned = self.plan.machine.gpu
        if planned is None or (planned.capability and planned.driver):
            return planned

        def ask(node: Node) -> Gpu | None:
            try:
                return node.gpu()
            except NodeLost as lost:
                self._set_aside(node, str(lost))
                return None

        gpus = each([node for node in self.nodes if node.trouble is None], ask)
        return least_of([planned, *(gpu for gpu in gpus if gpu is not None)])

    def _create_environment(self, node: Node, case: Case) -> Environment | EnvironmentUnavailable:
        adapter = self.adapters[case.framework]
        spec, python = specification(case, adapter=adapter, plan=self.plan, gpu=self._gpu)
        try:
            return node.environment(spec, python=python)
        except EnvironmentUnavailable as error:
            where = f" on {node.name}" if node.remote else ""
            self.progress.message(f"skipping {case.framework} {case.version}{where}: {error}")
            return error


def environment_name(case: Case) -> str:
    """Equal for cases that share an environment."""
    parallel = " parallel" if case.topology.world_size > 1 else ""
    return f"{case.framework}=={case.version} {case.device}{parallel}"


def require_adapters(plan: Plan, adapters: Mapping[str, Adapter]) -> None:
    """Raise UserError if a frozen plan names a framework without an adapter in this installation."""
    missing = sorted({case.framework for case in plan.runnable} - set(adapters))
    if missing:
        raise UserError(f"no adapter for {', '.join(missing)}; install the package that provides it")
