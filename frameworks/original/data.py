"""The data set that an original program reads: prepared before the run, watched, and searched for damage.

Such programs take images in an order of their own, so all files of the form count. What they wait for images
is not known; what they read is counted by the kernel.
"""

import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from frameworks.common.case import DataSet
from frameworks.common.dataset import DataError, check, share_of
from frameworks.common.page_cache import Span, bytes_read, drop, file_system, resident_share, warm
from frameworks.process_tree import tree

# Between two looks at the files, which cost a system call each.
_LOOK_SECONDS = 1.0
# Of a larger data set only the frames of images are looked at where the program failed.
_MOST_LOOKED_AT_BYTES = 1 << 30


class ProgramData:
    """The files of one form of a data set."""

    def __init__(self, data: DataSet, form: str) -> None:
        """Raises DataError where the index or the parts do not hold what they should, or cannot be read."""
        self._data = data
        try:
            self._share = share_of(data, form, 0, 1)
            self._sizes = {path: Path(path).stat().st_size for path in self._share.files}
            self._states = self._read_states()
        except OSError as error:
            raise _unreadable(error, data.path) from error
        self._looked = time.monotonic()

    def prepare(self) -> Dict[str, Any]:
        """Bring the files into the state that the case asks for; the value of the event `data_set`.

        Raises DataError where a file cannot be read.
        """
        spans = [Span(path, 0, size) for path, size in self._sizes.items()]
        try:
            if self._data.read == "cold":
                drop(spans)
            elif self._data.read == "warm":
                warm(spans)
            resident = resident_share(spans)
        except OSError as error:
            raise _unreadable(error, self._data.path) from error
        return {
            "path": self._data.path,
            "form": self._share.form,
            "read": self._data.read,
            "images": self._share.images,
            "bytes": sum(self._sizes.values()),
            "resident_share": None if resident is None else round(resident, 4),
            "file_system": file_system(self._data.path),
        }

    def look(self) -> Optional[DataError]:
        """Once a second: what is damaged, if the files changed; None where nothing is."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return None
        self._looked = now
        try:
            states = self._read_states()
        except OSError as error:
            return _unreadable(error, self._data.path)
        if states == self._states:
            return None
        self._states = states
        return self.damage(contents=False)

    def damage(self, *, contents: bool = True) -> Optional[DataError]:
        """The first damaged image; None where there is none. `contents`: look at JPEGs too, if few."""
        small = sum(self._sizes.values()) <= _MOST_LOOKED_AT_BYTES
        try:
            check(self._share, self._share.images, contents=contents and small)
        except DataError as error:
            return error
        except OSError as error:
            return _unreadable(error, self._data.path)
        return None

    def _read_states(self) -> List[Tuple[int, int]]:
        found = [Path(path).stat() for path in self._share.files]
        return [(state.st_size, state.st_mtime_ns) for state in found]


def _unreadable(error: OSError, path: str) -> DataError:
    return DataError(str(error.filename or path), error.strerror or str(error))


class ReadWindow:
    """What the processes of the program read from its start on."""

    def __init__(self) -> None:
        self._clock, self._before = time.perf_counter(), _bytes_by_process()

    def close(self) -> Dict[str, Any]:
        """The value of the event `reading`. Processes that ended meanwhile are left out."""
        seconds, after = time.perf_counter() - self._clock, _bytes_by_process()
        calls = storage = 0
        for pid, (called, stored) in after.items():
            called_before, stored_before = self._before.get(pid, (0, 0))
            calls, storage = calls + called - called_before, storage + stored - stored_before
        known = bool(after)
        return {
            "seconds": round(seconds, 6),
            "wait_seconds": None,
            "read_bytes": calls if known else None,
            "storage_bytes": storage if known else None,
            "read_mib_per_second": round(calls / seconds / 2**20, 3) if known else None,
        }


def _bytes_by_process() -> Dict[int, Tuple[int, int]]:
    read = {pid: bytes_read([pid]) for pid in tree()[1:]}
    return {pid: (found.calls, found.storage) for pid, found in read.items() if found is not None}
