"""One run: write its folder, start it, follow it, store its result."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from dlperf.adapters.base import WORK_FOLDER, Adapter
from dlperf.environments import Environment
from dlperf.errors import InfrastructureError, UserError
from dlperf.files import answering, read_regular, shipped_root, write_atomically, write_document
from dlperf.layout import (
    CASE_NAME,
    ENVIRONMENT_NAME,
    LAUNCH_NAME,
    OUTCOME_NAME,
    RESULT_NAME,
    STEPS_NAME,
    log_files,
    node_file,
    run_folder,
    set_aside_name,
)
from dlperf.logs.endings import Outcome, read_outcome
from dlperf.logs.events import Step, read_events, step_of
from dlperf.plan.case import Case
from dlperf.plan.plan import Plan
from dlperf.plan.sweep import Limits
from dlperf.results.extract import extract
from dlperf.results.schema import RunEnvironment, RunResult, Status, read_environment
from dlperf.results.store import Skipped, read_run, store_run, write_result
from dlperf.running.launch import (
    LEASE_SECONDS,
    OVERTIME_SECONDS,
    SILENCE_SECONDS,
    launch_files,
    rank_variables,
    redacted,
)
from dlperf.running.run_folder import empty_folder, refuse_newer, wait_until_deserted
from dlperf.running.supervision import FailureTracker, Interrupts, SupervisedRun, merge_outcomes
from dlperf.running.transports.base import Connection, Node, NodeLost, each
from dlperf.version import __version__

# The supervisor's exit codes if it cannot read its launch file or cannot write its outcome.
_SUPERVISOR_FAILED = frozenset({2, 5})
_TOOL_SECONDS = 20
_SUPERVISOR_STOOD_STILL = 6
# Reasons that say nothing about the case.
_ENDED_FROM_OUTSIDE = frozenset({"lease_lost", "stopped", "lost_node"})


class Progress(Protocol):
    """Shows people how far a sweep is. Every method returns at once."""

    def message(self, text: str) -> None:
        """One line about an event."""

    def planned(self, *, total: int, done: int) -> None:
        """The number of runs, and how many of them are done already."""

    def started(self, case: Case, *, repeat: int) -> None:
        """A run starts."""

    def stepped(self, step: Step) -> None:
        """Rank 0 of the current run has finished an iteration."""

    def ticked(self) -> None:
        """Called at least every half second during a run."""

    def ended(self, result: RunResult) -> None:
        """The result of a run is stored, also of one that never started."""

    def finished(self) -> None:
        """The sweep has ended: remove what was drawn on the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyNode:
    """A node with the framework's environment and the files of an original program on it."""

    node: Node
    environment: Environment
    source: Path | None = None  # on the node


class NodeUnfit(InfrastructureError):
    """A run could not be started on a node, for a reason that says nothing about its case."""

    def __init__(self, node: Node, reason: str) -> None:
        self.node = node
        super().__init__(f"{node.name}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Runs single cases."""

    limits: Limits
    interrupts: Interrupts
    progress: Progress
    port: int | None = None  # where the ranks of a case meet; None: a free one for each run

    def run(
        self, case: Case, *, repeat: int, folder: Path, adapter: Adapter, nodes: Sequence[ReadyNode]
    ) -> RunResult:
        """Run `case` once on `nodes`, by node rank, with all files in `folder`, and store the result there.

        Interrupted after a signal: the run has no result, and no process of it is left; NodeUnfit
        where the run could not be started on a node of a cluster; InfrastructureError where this machine
        failed, not the case.
        """
        empty_folder(folder)
        write_run_folder(folder, case, adapter=adapter, nodes=nodes, limits=self.limits, port=self.port)
        self.progress.started(case, repeat=repeat)
        self.supervise(folder, [ready.node for ready in nodes])
        return store_run(folder)

    def supervise(self, folder: Path, machines: Sequence[Node]) -> dict[int, str]:
        """Run the launch files of `folder` on the nodes, by node rank; its outcome.json says how it ended.

        Returns the nodes that were lost, by node rank, and why. Raises as `run`.
        """
        with self.interrupts.shielded():
            connections = _start_supervisors(folder, machines)
            limit = self.limits.time + OVERTIME_SECONDS
            with SupervisedRun(connections, lease_seconds=LEASE_SECONDS, limit_seconds=limit) as run:
                self.interrupts.attach(run)
                failures = self._follow(run, connections)
                exits = [(connection.exit_code(), connection.complaint()) for connection in connections]
            lost = _collect_files(folder, machines, codes=[code for code, _ in exits])
        standstill = _standstill(overtime=run.overtime, codes=[code for code, _ in exits])
        if standstill is not None:
            self.interrupts.check()
        if lost or standstill or len(machines) > 1:
            _write_merged_outcome(folder, machines, failures=failures, lost=lost, standstill=standstill)
        outcome = read_outcome(folder / OUTCOME_NAME)
        if outcome is None or outcome.reason != "completed":
            self.interrupts.check()
        for node, (code, complaint) in zip(machines, exits, strict=True):
            _refuse_harness_failure(node, outcome, code=code, complaint=complaint)
        return lost

    def _follow(self, run: SupervisedRun, connections: Sequence[Connection]) -> FailureTracker:
        """Follow the run to its end; a failure on one node ends it on the others at once."""
        failures, killed = FailureTracker(), False
        for node_event in run.events():
            self.progress.ticked()
            if node_event is None:
                continue
            node, event = node_event
            if event is None:
                failures.on_exit(node, code=connections[node].exit_code())
            else:
                failures.on_event(node, event)
                self._show(event)
            if failures.first_failed_node is not None and not killed:
                run.kill(except_node=failures.first_failed_node)
                killed = True
        return failures

    def _show(self, event: dict[str, Any]) -> None:
        if event.get("event") == "output":
            for log_event in read_events([str(event.get("text"))]):
                step = step_of(log_event)
                if step is not None and log_event.rank == 0:
                    self.progress.stepped(step)
        elif event.get("event") == "finished" and event["outcome"]["processes_left"]:
            left = " ".join(map(str, event["outcome"]["processes_left"]))
            self.progress.message(
                f"process {left} survives SIGKILL: it is stuck in the kernel and may disturb later runs"
            )


def write_run_folder(
    folder: Path,
    case: Case,
    *,
    adapter: Adapter,
    nodes: Sequence[ReadyNode],
    limits: Limits,
    port: int | None,
) -> None:
    """Write the case, the environment and one launch file per node; NodeUnfit if a node was lost."""
    machines = [ready.node for ready in nodes]
    try:
        facts = each(machines, lambda node: node.facts())
        clocks = each(machines, lambda node: node.clock() if node.remote else None)
        port = port or machines[0].free_port()
    except NodeLost as lost:
        raise NodeUnfit(lost.node, str(lost)) from lost
    node_launches = [
        replace(node.placed(folder, python=ready.environment.python), source=ready.source)
        for node, ready in zip(machines, nodes, strict=True)
    ]
    launches = launch_files(case, adapter=adapter, node_launches=node_launches, limits=limits, port=port)
    installed = nodes[0].environment.manifest  # those of the other nodes have the same specification
    inherited, ranks = machines[0].inherited(adapter.inherited_variables), launches[0].ranks
    each_rank = (rank_variables(rank, inherited) for rank in reversed(ranks))  # rank 0's values win
    variables = {name: value for values in each_rank for name, value in values.items()}
    own = {name for rank in ranks for name in rank.own} | {*adapter.inherited_variables}
    environment = RunEnvironment(
        dlperf_version=__version__,
        git_commit=git_commit(),
        nodes=tuple(facts),
        clocks=tuple(clocks),
        python=installed.python_version,
        packages=installed.packages,
        variables=redacted(dict(sorted(variables.items())), own=own),
        cpus={str(rank.rank): rank.cpus for launch in launches for rank in launch.ranks},
    )
    write_document(folder / CASE_NAME, case)
    write_document(folder / ENVIRONMENT_NAME, environment)
    for node_rank, launch in enumerate(launches):
        write_document(folder / node_file(LAUNCH_NAME, node_rank=node_rank, nodes=len(nodes)), launch)


@cache
def git_commit() -> str | None:
    """The commit of the checkout that dlperf runs from, `-dirty` if files differ; None outside a checkout."""
    git = ["git", "-C", str(shipped_root())]
    if not (shipped_root() / ".git").exists():
        return None
    try:
        commit, changed = (
            subprocess.run(
                [*git, *words], capture_output=True, text=True, timeout=_TOOL_SECONDS, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _start_supervisors(folder: Path, nodes: Sequence[Node]) -> list[Connection]:
    """Start a supervisor on every node, or on none if one cannot be started."""
    connections: dict[int, Connection] = {}

    def start(ranked_node: tuple[int, Node]) -> None:
        node_rank, node = ranked_node
        launch = node_file(LAUNCH_NAME, node_rank=node_rank, nodes=len(nodes))
        connections[node_rank] = node.open(folder, launch=launch)

    try:
        each(list(enumerate(nodes)), start)
    except BaseException as error:
        for connection in connections.values():
            connection.close()
        if isinstance(error, NodeLost):
            raise NodeUnfit(error.node, str(error)) from error
        raise
    return [connections[node_rank] for node_rank in range(len(nodes))]


def _collect_files(folder: Path, nodes: Sequence[Node], *, codes: Sequence[int | None]) -> dict[int, str]:
    """Fetch the files of the run from each node; returns the lost nodes, by node rank, and why."""
    lost: dict[int, str] = {}

    def collect(ranked_node: tuple[int, Node]) -> None:
        node_rank, node = ranked_node
        name = node_file(OUTCOME_NAME, node_rank=node_rank, nodes=len(nodes))
        if codes[node_rank] is None:
            lost[node_rank] = f"{node.name}: the connection broke during the run"
            return
        try:
            node.bring_back(folder, outcome=name)
        except NodeLost as error:
            lost[node_rank] = f"{node.name}: {error}"
            return
        outcome = read_outcome(folder / name)
        if node.remote and outcome is not None and outcome.reason == "lease_lost":
            lost[node_rank] = f"{node.name}: had no contact with dlperf for {LEASE_SECONDS:g} s"

    each(list(enumerate(nodes)), collect)
    return lost


def _write_merged_outcome(
    folder: Path,
    nodes: Sequence[Node],
    *,
    failures: FailureTracker,
    lost: dict[int, str],
    standstill: tuple[str, str] | None,
) -> None:
    names = [
        node_file(OUTCOME_NAME, node_rank=node_rank, nodes=len(nodes)) for node_rank in range(len(nodes))
    ]
    outcomes = [
        None if read_outcome(folder / name) is None else json.loads((folder / name).read_text("utf-8"))
        for name in names
    ]
    hosts = [node.name for node in nodes]
    content = merge_outcomes(outcomes, failures=failures, lost=lost, hosts=hosts, standstill=standstill)
    if content is not None:
        _write_outcome(folder, content)


def _write_outcome(folder: Path, content: dict[str, Any]) -> None:
    with answering(folder / OUTCOME_NAME):
        write_atomically(folder / OUTCOME_NAME, (json.dumps(content, indent=1) + "\n").encode())


def _standstill(*, overtime: bool, codes: Sequence[int | None]) -> tuple[str, str] | None:
    """Reason and detail of an outcome that a supervisor did not write because it stood still."""
    if overtime:
        return (
            "time_limit",
            f"its supervisor stood still and was killed {OVERTIME_SECONDS:g} s after the limit",
        )
    if _SUPERVISOR_STOOD_STILL in codes:
        return "stopped", f"its supervisor stood still for {SILENCE_SECONDS:g} s: suspended, or a disk hangs"
    return None


def _refuse_harness_failure(node: Node, outcome: Outcome | None, *, code: int | None, complaint: str) -> None:
    """Raise InfrastructureError if the end of the run says nothing about its case."""
    if outcome is None and code in _SUPERVISOR_FAILED:
        reason = f"the supervisor failed: {complaint or f'exit code {code}'}"
        raise NodeUnfit(node, reason) if node.remote else InfrastructureError(reason)
    if outcome is not None and outcome.reason == "lease_lost":
        raise InfrastructureError(
            f"dlperf itself did not respond for more than {LEASE_SECONDS:g} s (was it suspended?), so the "
            "run was ended; start again to continue"
        )


def store_unmeasured(case: Case, *, repeat: int, folder: Path, reason: str) -> RunResult:
    """Store that a run could not be started, and why."""
    empty_folder(folder)
    write_document(folder / CASE_NAME, case)
    result = RunResult(
        dlperf_version=__version__, case=case, repeat=repeat, status=Status.NOT_MEASURED, reason=reason
    )
    write_result(folder, result)
    return result


def recover_result(folder: Path) -> RunResult | None:
    """The result of a run that had ended by itself when dlperf was killed; None if it had not."""
    wait_until_deserted(folder)
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)  # its supervisor was killed too
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is None or outcome.reason in _ENDED_FROM_OUTSIDE:
        return None
    return store_run(folder)


def store_taken_away(folder: Path, *, reason: str, detail: str) -> RunResult:
    """Store of a run that ended together with what ran dlperf why it did; `outcome.json` says so from now on.

    One that had ended by itself before keeps its own result.
    """
    result = recover_result(folder)
    if result is not None:
        return result
    if read_outcome(folder / OUTCOME_NAME) is not None:  # stopped, as dlperf was told to end
        content = json.loads(read_regular(folder / OUTCOME_NAME))
    else:
        environment = read_environment(folder)
        hosts = [node.host for node in environment.nodes] if environment is not None else []
        content = merge_outcomes(
            [None] * len(hosts), failures=FailureTracker(), lost={0: detail}, hosts=hosts
        )
    _write_outcome(folder, {**(content or {}), "reason": reason, "detail": detail})
    return store_run(folder)


_COMPUTED = (RESULT_NAME, STEPS_NAME)


def mend_run_folders(plan: Plan, *, results: Path, say: Callable[[str], None], dry_run: bool = False) -> None:
    """Keep what a run of the plan left whose result exists and cannot be read.

    The result is computed again from the run's logs where these are whole; else the folder is set aside, so
    that the run is made again and overwrites nothing. With `dry_run` that is only said. UserError where a
    newer dlperf wrote a result.
    """
    folders = [run_folder(results, case_id=run.case_id, repeat=run.repeat) for run in plan.runs]
    found = {folder: read_run(folder, sweep=results) for folder in folders}
    unreadable = {folder: run for folder, run in found.items() if isinstance(run, Skipped)}
    refuse_newer(unreadable.values())
    for folder, skipped in unreadable.items():
        if not dry_run:
            wait_until_deserted(folder)
        if skipped.path.name in _COMPUTED and _has_whole_logs(folder):
            say(f"{skipped}; its result is computed again from its logs")
            if not dry_run:
                for name in _COMPUTED:  # what is no regular file would be written to as it is
                    (folder / name).unlink(missing_ok=True)
                store_run(folder)
        else:
            aside = set_aside_name(folder)
            say(f"{skipped}; {aside.name} keeps the folder, and the run is made again")
            if not dry_run:
                folder.rename(aside)


def _has_whole_logs(folder: Path) -> bool:
    """Whether a run had ended by itself and its logs say all that they said then."""
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is None or outcome.reason in _ENDED_FROM_OUTSIDE:
        return False
    try:
        result = extract(folder).result
    except UserError:
        return False
    has_all = len(log_files(folder)) == len(outcome.ranks)  # a process may drive several devices
    return has_all and (outcome.reason != "completed" or result.status is not Status.INCOMPLETE)
