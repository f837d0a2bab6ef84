"""Rows that do not fit into memory: written once, read any number of times, gone with their owner."""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_MOST_BYTES_IN_MEMORY = 8 << 20
_ROWS_AT_ONCE = 1 << 16


class Spool:
    """Rows of one structured dtype; few stay in memory, more go to a file without a name in TMPDIR."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._rows = 0
        self._file = tempfile.SpooledTemporaryFile(_MOST_BYTES_IN_MEMORY)  # noqa: SIM115  closed by the finalizer
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows, [n] of the dtype."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(rows.tobytes())
        self._rows += len(rows)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """The rows [start, stop) in order, some at a time."""
        stop = self._rows if stop is None else stop
        for first in range(start, stop, _ROWS_AT_ONCE):
            count = min(_ROWS_AT_ONCE, stop - first)
            self._file.seek(first * self._dtype.itemsize)
            yield np.frombuffer(self._file.read(count * self._dtype.itemsize), self._dtype)
