"""Run a program that reads a data set: `-m frameworks.common.data_watch MODULE CASE_FILE FORM [ARGUMENT]...`.

Some engines end their process by abort() or exit() where a record is damaged, in a thread of their own, and
no Python of theirs runs again. This process has no engine. It prepares the files (checks the frames of the
images that the run takes, warms or drops the page cache), starts the program, and watches: when the files
change, or when the program fails, it looks at the images again, and prints the event `data_error` if one of
them is damaged. It ends as the program did.
"""

import os
import signal
import subprocess
import sys
from typing import List, NoReturn, Optional

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data_files import DataFiles
from frameworks.common.dataset import EXIT_DATA, DataError
from frameworks.common.events import EventLog
from frameworks.common.reading import PREFETCHED_BATCHES, images_needed
from frameworks.process_tree import ENDING_SIGNALS, die_with_parent, end_as

# Between two looks at the files, which cost a system call each.
_LOOK_SECONDS = 1.0


def main() -> None:
    """Prepare, run and watch; see the module."""
    module, case_file, form, *arguments = sys.argv[1:]
    case, rank = read_case(case_file), rank_from_environment()
    if case.data is None:
        raise ValueError("the case has no data set")
    log, devices = EventLog(rank.rank), range(rank.rank, rank.rank + rank.devices)
    try:
        files = DataFiles(case.data, form, devices, case.world_size, images_needed(case))
        # Readers are ahead of the program.
        log.event("data_set", files.prepare(PREFETCHED_BATCHES * case.batch_size_per_device))
    except DataError as error:
        _fail(log, error)
    child = _start([sys.executable, "-m", module, case_file, *arguments])
    error = _watch(child, files)
    if error is not None:
        _fail(log, error)
    end_as(child.returncode)


def _fail(log: EventLog, error: DataError) -> NoReturn:
    log.data_error(error)
    sys.exit(EXIT_DATA)


def _start(argv: List[str]) -> "subprocess.Popen[bytes]":
    watch = os.getpid()
    for number in ENDING_SIGNALS:  # of the supervisor; the program gets them too
        signal.signal(number, lambda *_: None)  # the program would inherit SIG_IGN
    return subprocess.Popen(argv, preexec_fn=lambda: die_with_parent(signal.SIGKILL, watch))  # noqa: PLW1509


def _watch(child: "subprocess.Popen[bytes]", files: DataFiles) -> Optional[DataError]:
    """Wait for the program's end; why the data was at fault, if it was, with the program ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while child.poll() is None:
        signal.sigtimedwait([signal.SIGCHLD], _LOOK_SECONDS)
        error = files.look()
        if error is not None:
            child.kill()
            child.wait()
            return error
    # With EXIT_DATA it has said itself what is wrong.
    return None if child.returncode in (0, EXIT_DATA) else files.damage()


if __name__ == "__main__":
    main()
