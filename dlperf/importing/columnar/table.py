"""Where the layouts of a log have their numbers, and all numbers of a chunk of lines read from there.

Lines are not read layout by layout, of which a log may have thousands, but field by field, and within a field
by the shape of its text, of which there are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dlperf.importing.columnar.cells import Reader, reader_of
from dlperf.importing.columnar.layout import MASK
from dlperf.importing.records import FIELDS, TIME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dlperf.importing.columnar.layout import Found
    from dlperf.importing.dialects.base import Dialect

_NOT_GIVEN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Raw rows: records, and losses on lines of their own, in the order of the log.

    Attributes:
        index: int64 [n], which line of the chunk, from 0.
        values: float64 [n, 7], as in `Batch`.
        given: bool [n, 7], as in `Batch`.
    """

    index: NDArray[np.int64]
    values: NDArray[np.float64]
    given: NDArray[np.bool_]


class _Growing:
    """A two-dimensional array to which rows are added."""

    def __init__(self, columns: int, fill: int) -> None:
        self._fill = fill
        self._kept = np.full((64, columns), fill, np.int32)
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def array(self) -> NDArray[np.int32]:
        """[rows, columns]; good until the next change."""
        return self._kept[: self._rows]

    def put(self, row: int, cells: Sequence[int]) -> None:
        """Write a row; those before it that were never written hold `fill`."""
        while row >= len(self._kept):
            self._kept = np.concatenate([self._kept, np.full_like(self._kept, self._fill)])
        self._kept[row] = cells
        self._rows = max(self._rows, row + 1)


class CellTable:
    """By the code of a layout its matches of each dialect; by match where its cells are, and their shapes."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []
        self._numbers: dict[tuple[str, bytes], int] = {}  # group and shape -> number of the reader
        self._matches: dict[str, _Growing] = {}  # dialect -> by code: first match, number of matches
        self._starts = _Growing(len(FIELDS), 0)
        self._shapes = _Growing(len(FIELDS), _NOT_GIVEN)

    def __len__(self) -> int:
        """How many matches it knows."""
        return len(self._starts)

    def add(self, code: int, found: Sequence[Found], line: bytes) -> None:
        """Remember the layout of a line."""
        for name in {item.dialect.name for item in found}:
            mine = [item for item in found if item.dialect.name == name]
            self._matches.setdefault(name, _Growing(2, 0)).put(code, (len(self._starts), len(mine)))
            for item in mine:
                self._add_match(item, line)

    def _add_match(self, found: Found, line: bytes) -> None:
        starts, shapes = [0] * len(FIELDS), [_NOT_GIVEN] * len(FIELDS)
        for cell in found.cells:
            key = (cell.group, line[cell.start : cell.end].translate(MASK))
            number = self._numbers.setdefault(key, len(self._readers))
            if number == len(self._readers):
                self._readers.append(reader_of(*key))
            starts[cell.column], shapes[cell.column] = cell.start, number
        self._shapes.put(len(self._starts), shapes)
        self._starts.put(len(self._starts), starts)

    def read(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        codes: NDArray[np.int32],
        dialect: Dialect,
    ) -> Rows:
        """Everything of a dialect in the lines that start there and have these codes, both [n]."""
        if dialect.name not in self._matches:
            return Rows(
                index=np.empty(0, np.int64),
                values=np.empty((0, len(FIELDS))),
                given=np.empty((0, len(FIELDS)), np.bool_),
            )
        index, match = self._of_lines(codes, self._matches[dialect.name].array)
        used = np.flatnonzero(np.bincount(match))
        begins = starts[index]
        # A column's cells are neighbours in memory.
        values = np.full((len(FIELDS), len(index)), np.nan).T
        given = np.empty((len(FIELDS), len(index)), np.bool_).T
        for column in range(len(FIELDS)):
            cells, shapes = self._starts.array[:, column], self._shapes.array[:, column]
            if len(used) and (shapes[used] == shapes[used[0]]).all():
                number = int(shapes[used[0]])
                given[:, column] = number != _NOT_GIVEN
                if number != _NOT_GIVEN:
                    values[:, column] = self._readers[number].read(buffer, begins + cells[match])
            else:
                of_lines = shapes[match]
                given[:, column] = of_lines != _NOT_GIVEN
                self._read_shapes(buffer, begins + cells[match], of_lines, values[:, column])
        given[:, TIME] &= ~np.isnan(values[:, TIME])
        return Rows(index=index, values=values, given=given)

    @staticmethod
    def _of_lines(
        codes: NDArray[np.int32], matches: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each match: the line that it is in, and its number; by line, within a line by position."""
        index = np.flatnonzero(codes < len(matches))
        of_lines = codes if len(index) == len(codes) else codes[index]
        first, count = (np.ascontiguousarray(part)[of_lines].astype(np.int64) for part in matches.T)
        if (count == 1).all():
            return index, first
        index = np.repeat(index, count)
        before = np.cumsum(count) - count
        return index, np.repeat(first - before, count) + np.arange(len(index))

    def _read_shapes(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        shapes: NDArray[np.int32],
        values: NDArray[np.float64],
    ) -> None:
        """Read the texts that start there and have these shapes into `values`; all but `buffer` are [n]."""
        counts = np.bincount(shapes + 1)[1:]
        for number in np.flatnonzero(counts).tolist():
            rows = np.flatnonzero(shapes == number)
            values[rows] = self._readers[number].read(buffer, starts[rows])
