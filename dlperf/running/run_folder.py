"""Run folders as the runner sees them: names, state, results, and the locks on folder and machine."""

import errno
import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dlperf.errors import InfrastructureError, UserError
from dlperf.files import answering, open_regular, shipped_folder
from dlperf.layout import (
    LAUNCH_NAME,
    RESULT_NAME,
    RESULTS_LOCK_NAME,
    SLURM_FOLDER,
    run_folder,
    set_aside_name,
)
from dlperf.plan.plan import Plan, PlannedRun
from dlperf.results.schema import FAILED, MADE_AGAIN, Status
from dlperf.results.store import Skipped, StoredRun, read_result, read_run

# A supervisor without its harness ends its ranks within seconds, unless a disk or a driver hangs. So does a
# harness whose job Slurm has ended and whose node it does not reach any more.
DESERTED_LIMIT_SECONDS = 30.0
_POLL_SECONDS = 0.05
# None, or one that is no regular file: no supervisor holds it.
_NO_LAUNCH_FILE = frozenset({errno.ENOENT, errno.EINVAL, errno.ELOOP})


def wait_until_deserted(folder: Path, *, limit_seconds: float = DESERTED_LIMIT_SECONDS) -> None:
    """Wait until no supervisor, and so no rank, is running in the folder.

    A supervisor holds a lock on its launch file; the kernel releases it when its last process has ended.
    InfrastructureError where one is still running after the limit.
    """
    try:
        launch = open_regular(folder / LAUNCH_NAME)
    except OSError as error:
        if error.errno in _NO_LAUNCH_FILE:
            return
        raise
    with launch:
        if not _lock(launch.fileno(), limit_seconds=limit_seconds):
            raise InfrastructureError(
                f"{folder}: the supervisor of an earlier run is still running after {limit_seconds:g} s; "
                "end it (ps -eo pid,args | grep supervisor.py) and start again"
            )


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX, *, limit_seconds: float) -> bool:
    """Whether the lock could be had within the limit."""
    deadline = time.monotonic() + limit_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def empty_folder(folder: Path) -> None:
    """Create the run folder, without the files that an interrupted or failed run left in it.

    A folder whose result cannot be read is set aside as it is. UserError where a newer dlperf wrote its
    result; InfrastructureError where a run is still in progress in it.
    """
    unreadable = read_run(folder, sweep=folder)
    if isinstance(unreadable, Skipped):
        refuse_newer([unreadable])
        wait_until_deserted(folder)
        folder.rename(set_aside_name(folder))
    elif folder.exists():
        wait_until_deserted(folder)
        # The result first: an interrupted removal must not leave a result without its logs.
        with answering(folder):
            (folder / RESULT_NAME).unlink(missing_ok=True)
            shutil.rmtree(folder)
    with answering(folder):
        folder.mkdir(parents=True)


def refuse_newer(unreadable: Iterable[Skipped]) -> None:
    """Raise UserError where a newer dlperf wrote one of these results, which this one would overwrite."""
    newer = [str(skipped) for skipped in unreadable if skipped.is_newer]
    if newer:
        more = f" (and {len(newer) - 1} more)" if len(newer) > 1 else ""
        raise UserError(f"{newer[0]}{more}, or give another folder with --results DIR")


def pending_runs(plan: Plan, *, results: Path, retry_failed: bool) -> tuple[PlannedRun, ...]:
    """The runs of the plan that are still to run, in its order.

    A run with a result is done. It runs again if it failed and `retry_failed` is set, and always if its
    status says nothing about its case (`MADE_AGAIN`). A run that ran out of memory at a limit runs again too:
    the limit is lower.
    """
    repeated = MADE_AGAIN | FAILED if retry_failed else MADE_AGAIN
    searched = {case.case_id for case in plan.runnable if case.search is not None}

    def is_pending(run: PlannedRun) -> bool:
        stored = read_result(run_folder(results, case_id=run.case_id, repeat=run.repeat))
        if stored is None or stored.status in repeated:
            return True
        return stored.status is Status.OOM and run.case_id in searched

    return tuple(run for run in plan.runs if is_pending(run))


def stored_runs(plan: Plan, *, results: Path) -> tuple[StoredRun, ...]:
    """The plan's runs that have a result, in its order."""
    folders = (run_folder(results, case_id=run.case_id, repeat=run.repeat) for run in plan.runs)
    read = (read_run(folder, sweep=results) for folder in folders)
    return tuple(run for run in read if isinstance(run, StoredRun))


# The kernel releases the locks of a process that has died.
@contextmanager
def results_folder(folder: Path, *, limit_seconds: float = 0.0) -> Iterator[None]:
    """Lock a results folder, which is created if it does not exist.

    UserError where another dlperf still uses it after the limit, or it is not writable.
    """
    try:
        with answering(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / RESULTS_LOCK_NAME)
            lock.acquire(timeout=limit_seconds)
    except Timeout:
        raise UserError(
            f"{folder}: another dlperf is using this results folder; wait until it ends, "
            "or choose another folder with --results DIR"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; choose another folder with --results DIR") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def cell_of_results(folder: Path, cell: str, *, limit_seconds: float = 0.0) -> Iterator[None]:
    """Lock the runs of one cell, by its digest, in a results folder: those of others may be made meanwhile.

    InfrastructureError where another dlperf uses the whole folder, or makes the runs of this cell, still
    after the limit.
    """
    with ExitStack() as held:
        for path, kind in (
            (folder / RESULTS_LOCK_NAME, fcntl.LOCK_SH),
            (folder / SLURM_FOLDER / f"{cell}.lock", fcntl.LOCK_EX),
        ):
            with answering(folder):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(path.open("a+b"))  # not emptied; a shared lock reads
                if not _lock(file.fileno(), kind, limit_seconds=limit_seconds):
                    raise InfrastructureError(
                        f"{path}: another dlperf makes these runs; the same command makes what it leaves"
                    )
        yield


class AnotherDlperf(InfrastructureError):
    """Another dlperf is measuring on this machine."""

    def __init__(self, holder: str) -> None:
        self.text = f"another dlperf is measuring on this machine ({holder})"
        super().__init__(f"{self.text}; try again later, or omit --no-wait to wait")


@contextmanager
def whole_machine(*, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Lock this machine for measuring, as two runs at once would disturb each other.

    frameworks/host_lock.py, the same program as on the nodes of a cluster, holds the lock, and ends with us.
    AnotherDlperf where `wait` is False and another dlperf is measuring; InfrastructureError where the lock
    cannot be taken for another reason.
    """
    command = [sys.executable, "-I", str(shipped_folder("frameworks") / "host_lock.py")]
    with subprocess.Popen(
        [*command, "--wait"] if wait else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C ends the run first
    ) as keeper:
        for line in keeper.stdout or ():
            answer = json.loads(line)
            if "held" in answer:
                break
            if "problem" in answer:
                raise InfrastructureError(answer["problem"])
            another = AnotherDlperf(answer["holder"])
            if not wait:
                raise another
            say(f"{another.text}; waiting until it ends")
        else:
            raise InfrastructureError(f"{command[-1]} has ended with exit code {keeper.wait()}")
        yield
        if keeper.poll() is not None:
            say("the process that held the lock of this machine was killed: another dlperf may have run")
