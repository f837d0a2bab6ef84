"""Files of records: how they are read and written, and what can be wrong with a record.

Images travel in batches, of as many as one read brings: a step per image in each layer would take several
times as long as reading and writing it.
"""

import os
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

from dlperf.errors import UserError
from dlperf.files import open_regular
from dlperf.wording import plural

# No face, and no photograph, is as large. A length beyond it is damage; nothing of that size is read.
MOST_RECORD_BYTES = 64 << 20
# As much is read at a time. A record that does not end within is read again with the next.
CHUNK_BYTES = 1 << 20
_ANY_SIZE = 1 << 62
_MOST_BUFFERS = 1024  # per call, in Linux

Content = bytes | memoryview
# Takes how many images more are done.
Progress = Callable[[int], None]
LabelT = TypeVar("LabelT", int, float)


class Batch(NamedTuple, Generic[LabelT]):
    """Records in the order of their file: the lists have an entry per record.

    A record has a number, from 0 in its file, the byte at which it begins, a label, and an encoded image.
    Labels are floats as RecordIO has them, until they have been checked.
    """

    path: Path
    numbers: Sequence[int]
    offsets: list[int]
    labels: list[LabelT]
    contents: list[Content]

    def only(self, keep: Sequence[bool]) -> Self:
        """The records whose entry is true."""
        return self._replace(
            numbers=list(compress(self.numbers, keep)),
            offsets=list(compress(self.offsets, keep)),
            labels=list(compress(self.labels, keep)),
            contents=list(compress(self.contents, keep)),
        )

    def without_faults(self, problems: Sequence[str | None], skip: "Skip | None") -> Self:
        """The records that have no problem; raises the first Fault, or gives each to `skip`."""
        for place, problem in enumerate(problems):
            if problem is not None:
                report(Fault(self.path, self.numbers[place], self.offsets[place], problem), skip)
        return self.only([problem is None for problem in problems])


class Fault(UserError):
    """A record that cannot be used: its file, its number there from 0, and the byte where it begins."""

    def __init__(self, path: Path, number: int, offset: int, problem: str) -> None:
        self.path, self.number, self.offset, self.problem = path, number, offset, problem
        super().__init__(f"{path}: record {number} at byte {offset}: {problem}")


# Takes a fault where records with faults are skipped.
Skip = Callable[[Fault], None]


def report(fault: Fault, skip: Skip | None) -> None:
    """Give a fault to `skip`, or raise it where there is none."""
    if skip is None:
        raise fault
    skip(fault)


class RecordFile:
    """A file of records, read at any offset."""

    def __init__(self, path: Path) -> None:
        """Open the file; UserError where there is none, it is empty, or it is no regular file."""
        self.path = path
        try:
            self._stream = open_regular(path, most_bytes=_ANY_SIZE)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        self._descriptor = self._stream.fileno()
        self.size = os.fstat(self._descriptor).st_size
        if not self.size:
            self._stream.close()
            raise UserError(f"{path} is empty: it holds no record")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer at the end of the file. UserError where the disk fails."""
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise UserError(f"{self.path}: byte {offset}: {error.strerror}") from None

    def shortage(self, offset: int, length: int) -> str | None:
        """What is wrong with `length` bytes announced to begin at `offset`; None where they can be read."""
        if not 0 <= length <= MOST_RECORD_BYTES:
            return f"a length of {length} bytes, but no image has more than {MOST_RECORD_BYTES >> 20} MiB"
        left = self.size - offset
        if length > left:
            return f"cut short: {plural(length, 'byte')} announced, {max(0, left)} left in the file"
        return None


def write_buffers(descriptor: int, buffers: Sequence[Content]) -> int:
    """Write all of them, one after the other, and return how many bytes they have."""
    total = 0
    for begin in range(0, len(buffers), _MOST_BUFFERS):
        group = buffers[begin : begin + _MOST_BUFFERS]
        expected = sum(map(len, group))
        written = os.writev(descriptor, group)
        total += expected
        if written < expected:  # the disk has become full, which the next write says, or a signal came
            rest = memoryview(b"".join(group))[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    return total
