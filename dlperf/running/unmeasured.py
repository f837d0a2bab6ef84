"""Programs in the place of a training program that are no run of a sweep: nothing follows their steps."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dlperf.adapters.base import Adapter, Launch, RankCommand
from dlperf.errors import InfrastructureError
from dlperf.files import write_document
from dlperf.layout import CASE_NAME, LAUNCH_NAME, OUTCOME_NAME
from dlperf.logs.endings import Outcome, read_outcome
from dlperf.plan.case import Case
from dlperf.plan.sweep import Limits
from dlperf.running.launch import LEASE_SECONDS, OVERTIME_SECONDS, NodeLaunch, launch_file, place_ranks
from dlperf.running.run_folder import empty_folder
from dlperf.running.supervision import Interrupts, SupervisedRun
from dlperf.running.transports.base import Connection
from dlperf.running.transports.local import start_local_supervisor


def write_launch(
    folder: Path,
    case: Case,
    *,
    adapter: Adapter,
    node: NodeLaunch,
    port: int,
    commands: Callable[[Sequence[RankCommand]], Sequence[RankCommand]],
    time_limit_seconds: float,
) -> None:
    """Empty `folder` and write the case and its launch file for one node.

    `commands` makes the processes from those of the adapter's training program; what it raises is raised.
    """
    empty_folder(folder)
    placements = place_ranks(case, nodes=[node], port=port)
    launch = Launch(
        case=case, case_file=node.case_file, code=node.code, python=node.python, placements=placements
    )
    content = launch_file(
        case,
        placements=placements,
        commands=commands(adapter.rank_commands(launch)),
        limits=Limits(time=time_limit_seconds),
        node_rank=0,
        variables=(*adapter.inherited_variables, *node.variables),
    )
    write_document(folder / CASE_NAME, case)
    # Such a program prints nothing until it is done.
    write_document(folder / LAUNCH_NAME, content.model_copy(update={"stall_limit_seconds": None}))


def run_to_its_end(folder: Path, *, time_limit_seconds: float, interrupts: Interrupts) -> Outcome:
    """Run the launch file of a folder on this machine under the supervisor; what became of it.

    Interrupted after a signal; InfrastructureError where the supervisor could not do its work.
    """
    with interrupts.shielded():
        connection = start_local_supervisor(folder, launch=LAUNCH_NAME)
        ((code, complaint),) = wait_for_ends([connection], time_limit_seconds, interrupts)
    interrupts.check()
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is None:
        raise InfrastructureError(f"the supervisor could not do its work: {complaint or f'exit code {code}'}")
    return outcome


def wait_for_ends(
    connections: Sequence[Connection], time_limit_seconds: float, interrupts: Interrupts
) -> list[tuple[int | None, str]]:
    """Wait until all supervisors have ended; the exit code and the complaint of each. Call in `shielded`."""
    limit = time_limit_seconds + OVERTIME_SECONDS
    with SupervisedRun(connections, lease_seconds=LEASE_SECONDS, limit_seconds=limit) as run:
        interrupts.attach(run)
        for _ in run.events():
            pass
        return [(connection.exit_code(), connection.complaint()) for connection in connections]
