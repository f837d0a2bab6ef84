"""A launch on this machine that is no run of a sweep: nothing follows its steps, and nothing is stored."""

from pathlib import Path

from dlperf.errors import InfrastructureError
from dlperf.layout import LAUNCH_NAME, OUTCOME_NAME
from dlperf.logs.endings import Outcome, read_outcome
from dlperf.running.launch import LEASE_SECONDS, OVERTIME_SECONDS
from dlperf.running.supervision import Interrupts, SupervisedRun
from dlperf.running.transports.local import start_local_supervisor


def run_to_its_end(folder: Path, *, time_limit_seconds: float, interrupts: Interrupts) -> Outcome:
    """Run the launch file of a folder under the supervisor; what became of it.

    Interrupted after a signal; InfrastructureError where the supervisor could not do its work.
    """
    with interrupts.shielded():
        connection = start_local_supervisor(folder, launch=LAUNCH_NAME)
        limit = time_limit_seconds + OVERTIME_SECONDS
        with SupervisedRun([connection], lease_seconds=LEASE_SECONDS, limit_seconds=limit) as run:
            interrupts.attach(run)
            for _ in run.events():
                pass
            code, complaint = connection.exit_code(), connection.complaint()
    interrupts.check()
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is None:
        raise InfrastructureError(f"the supervisor could not do its work: {complaint or f'exit code {code}'}")
    return outcome
