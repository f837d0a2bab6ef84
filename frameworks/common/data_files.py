"""The files of a data set that a run reads: prepared before it, watched, and searched for damage.

Standard library alone, because it also runs beside programs without numpy.
"""

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from frameworks.common.case import DataSet
from frameworks.common.dataset import DataError, Share, check, records, share_of
from frameworks.common.page_cache import Span, drop, file_system, resident_share, warm

# Of a larger data set that is read as a whole only the frames of images are looked at, not their JPEGs.
_MOST_LOOKED_AT_BYTES = 1 << 30


class DataFiles:
    """The shares of some devices in one form, of which a run takes the first `needed` images each.

    None: all of them, in an order of its own. Every method raises or returns a DataError also where a file
    cannot be read.
    """

    def __init__(
        self, data: DataSet, form: str, devices: Sequence[int], world_size: int, needed: Optional[int] = None
    ) -> None:
        self._data, self._needed = data, needed
        with self._readable():
            self._shares = [share_of(data, form, device, world_size) for device in devices]
            self._states = self._read_states()

    def prepare(self, ahead: int = 0) -> Dict[str, Any]:
        """Bring the files into the state that the case asks for; the value of the event `data_set`.

        The frames of the needed images are checked, and of as many more as a reader is `ahead` of the run.
        """
        with self._readable():
            spans = [span for share in self._shares for span in self._spans(share, ahead)]
            if self._data.read == "cold":
                drop(spans)
            elif self._data.read == "warm":
                warm(spans)
            resident = resident_share(spans)
        return {
            "path": self._data.path,
            "form": self._shares[0].form,
            "read": self._data.read,
            "images": sum(share.images for share in self._shares),
            "bytes": sum(span.end - span.begin for span in spans),
            "resident_share": None if resident is None else round(resident, 4),
            "file_system": file_system(self._data.path),
        }

    def look(self) -> Optional[DataError]:
        """What is damaged, if the files changed since the last look; None where nothing is."""
        try:
            with self._readable():
                states = self._read_states()
        except DataError as error:
            return error
        if states == self._states:
            return None
        self._states = states
        return self._damage(contents=False)

    def damage(self) -> Optional[DataError]:
        """The first damaged image, its JPEG included; None where there is none."""
        few = self._needed is not None or sum(size for size, _ in self._states) <= _MOST_LOOKED_AT_BYTES
        return self._damage(contents=few)

    def _damage(self, *, contents: bool) -> Optional[DataError]:
        try:
            with self._readable():
                for share in self._shares:
                    check(share, share.images if self._needed is None else self._needed, contents=contents)
        except DataError as error:
            return error
        return None

    def _read_states(self) -> List[Tuple[int, int]]:
        """Size and time of the last change of every file."""
        found = [Path(path).stat() for share in self._shares for path in share.files]
        return [(state.st_size, state.st_mtime_ns) for state in found]

    def _spans(self, share: Share, ahead: int) -> List[Span]:
        """The bytes that hold the images which the run takes."""
        if self._needed is None:
            return [Span(path, 0, Path(path).stat().st_size) for path in share.files]
        ends: Dict[str, Span] = {}
        for number, record in enumerate(records(share)):
            if number == self._needed + ahead:
                break
            begin = ends[record.file].begin if record.file in ends else record.offset
            ends[record.file] = Span(record.file, begin, record.end)
        return list(ends.values())

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Where a file cannot be read in the block, that is a DataError too."""
        try:
            yield
        except OSError as error:
            raise DataError(str(error.filename or self._data.path), error.strerror or str(error)) from error
