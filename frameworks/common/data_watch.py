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
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional, Tuple

from frameworks.common.case import Case, DataSet, rank_from_environment, read_case
from frameworks.common.dataset import DataError, Share, check, records, share_of
from frameworks.common.events import EventLog
from frameworks.common.page_cache import Span, drop, file_system, resident_share, warm
from frameworks.common.reading import EXIT_DATA, PREFETCHED_BATCHES, images_needed, log_data_error
from frameworks.process_tree import die_with_parent

# Between two looks at the files, which cost a system call each.
_LOOK_SECONDS = 1.0

# What the supervisor asks a run to end with; the program gets it too.
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

State = List[Tuple[int, int]]


def main() -> None:
    """Prepare, run and watch; see the module."""
    module, case_file, form, *arguments = sys.argv[1:]
    case, rank = read_case(case_file), rank_from_environment()
    if case.data is None:
        raise ValueError("the case has no data set")
    log, data = EventLog(rank.rank), case.data
    try:
        shares = [
            share_of(data, form, number, case.world_size)
            for number in range(rank.rank, rank.rank + rank.devices)
        ]
        states = _states(shares)
        log.event("data_set", _prepare(case, data, shares))
    except DataError as error:
        _fail(log, error)
    except OSError as error:
        _fail(log, DataError(str(error.filename or data.path), error.strerror or str(error)))
    child = _start([sys.executable, "-m", module, case_file, *arguments])
    error = _watch(child, shares, states, images_needed(case))
    if error is not None:
        _fail(log, error)
    _end_as(child.returncode)


def _fail(log: EventLog, error: DataError) -> NoReturn:
    log_data_error(log, error)
    sys.exit(EXIT_DATA)


def _prepare(case: Case, data: DataSet, shares: List[Share]) -> Dict[str, Any]:
    """Check the images that the run takes and bring them into the state asked for; the event `data_set`."""
    # Readers are ahead of the program.
    needed = images_needed(case) + PREFETCHED_BATCHES * case.batch_size_per_device
    spans = [span for share in shares for span in _spans(share, needed)]
    if data.read == "cold":
        drop(spans)
    elif data.read == "warm":
        warm(spans)
    resident = resident_share(spans)
    return {
        "path": data.path,
        "form": shares[0].form,
        "read": data.read,
        "images": sum(share.images for share in shares),
        "bytes": sum(span.end - span.begin for span in spans),
        "resident_share": None if resident is None else round(resident, 4),
        "file_system": file_system(data.path),
    }


def _spans(share: Share, needed: int) -> List[Span]:
    """The bytes that hold the first `needed` images; checks their frames."""
    ends: Dict[str, Span] = {}
    for number, record in enumerate(records(share)):
        if number == needed:
            break
        begin = ends[record.file].begin if record.file in ends else record.offset
        ends[record.file] = Span(record.file, begin, record.end)
    return list(ends.values())


def _states(shares: List[Share]) -> State:
    """Size and time of the last change of every file."""
    found = [Path(path).stat() for share in shares for path in share.files]
    return [(state.st_size, state.st_mtime_ns) for state in found]


def _start(argv: List[str]) -> "subprocess.Popen[bytes]":
    watch = os.getpid()
    for number in _ENDING_SIGNALS:
        signal.signal(number, lambda *_: None)  # the program would inherit SIG_IGN
    return subprocess.Popen(argv, preexec_fn=lambda: die_with_parent(signal.SIGKILL, watch))  # noqa: PLW1509


def _watch(
    child: "subprocess.Popen[bytes]", shares: List[Share], before: State, needed: int
) -> Optional[DataError]:
    """Wait for the program's end; why the data was at fault, if it was, with the program ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    states = before
    while child.poll() is None:
        signal.sigtimedwait([signal.SIGCHLD], _LOOK_SECONDS)
        try:
            now = _states(shares)
        except OSError as error:
            return _ended(child, DataError(str(error.filename), error.strerror or str(error)))
        if now != states:
            states = now
            error = _damage(shares, needed, contents=False)
            if error is not None:
                return _ended(child, error)
    # With EXIT_DATA it has said itself what is wrong.
    failed = child.returncode not in (0, EXIT_DATA)
    return _damage(shares, needed, contents=True) if failed else None


def _ended(child: "subprocess.Popen[bytes]", error: DataError) -> DataError:
    child.kill()
    child.wait()
    return error


def _damage(shares: List[Share], needed: int, *, contents: bool) -> Optional[DataError]:
    try:
        for share in shares:
            check(share, needed, contents=contents)
    except DataError as error:
        return error
    except OSError as error:
        return DataError(str(error.filename or shares[0].files[0]), error.strerror or str(error))
    return None


def _end_as(code: int) -> NoReturn:
    """End with the program's exit code, or by the signal that ended it."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
