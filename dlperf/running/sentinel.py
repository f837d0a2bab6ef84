"""A fixed second of work that no framework takes part in: how fast this machine is at the moment.

`python -m dlperf.running.sentinel` does it and prints a `Reading`; it is a process of its own so that its
memory and its threads are gone when a run starts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dlperf.plan.order import cells_of
from dlperf.results.sentinels import SENTINELS_NAME, BlockReading, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Literal

    from dlperf.plan.case import Case

_MATRIX = 1024  # columns and rows: 2 GFLOP a product
_COPIED_BYTES = 64 * 2**20  # more than any cache holds
_SECONDS_EACH = 0.25
_FEWEST = 5
_LIMIT_SECONDS = 60


def measure() -> Reading:
    """Do the work: the median of some products and of some copies, `_SECONDS_EACH` long each."""
    import numpy as np  # noqa: PLC0415 - the harness itself needs none

    square = np.ones((_MATRIX, _MATRIX), np.float32)
    product = np.empty_like(square)
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    return Reading(
        matmul_flops_per_second=2 * _MATRIX**3 / _median_seconds(lambda: np.matmul(square, square, product)),
        copy_bytes_per_second=_COPIED_BYTES / _median_seconds(lambda: np.copyto(target, source)),
    )


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    taken: list[float] = []
    while len(taken) < _FEWEST or sum(taken) < _SECONDS_EACH:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def reading() -> Reading | None:
    """A reading of this machine; None where the process could not do it."""
    command = [sys.executable, "-m", "dlperf.running.sentinel"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT_SECONDS, check=True)
        return Reading.model_validate_json(done.stdout)
    except (OSError, subprocess.SubprocessError, ValidationError):
        return None


class BlockWatch:
    """Takes a reading where one block of runs ends and the next begins, and writes it beside the runs.

    One reading stands for the end of a block and the beginning of the next.
    """

    def __init__(
        self, cases: Sequence[Case], folder: Path, *, take: Callable[[], Reading | None] = reading
    ) -> None:
        self._file = folder / SENTINELS_NAME
        self._take = take
        self._cells = {
            case.case_id: tuple(arm.case_id for arm in cell) for cell in cells_of(cases) for case in cell
        }
        self._block: tuple[tuple[str, ...], int] | None = None

    def entering(self, case: Case, repeat: int) -> None:
        """A run is about to start."""
        block = (self._cells[case.case_id], repeat)
        if block != self._block:
            self._turn(block)

    def finished(self) -> None:
        """The last run is over."""
        if self._block is not None:
            self._turn(None)

    def _turn(self, block: tuple[tuple[str, ...], int] | None) -> None:
        former, self._block = self._block, block
        taken = self._take()
        if taken is None:
            return
        if former is not None:
            self._write(taken, "after", former)
        if block is not None:
            self._write(taken, "before", block)

    def _write(
        self, taken: Reading, position: Literal["before", "after"], block: tuple[tuple[str, ...], int]
    ) -> None:
        line = BlockReading(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            position=position,
            case_ids=block[0],
            repeat=block[1],
            reading=taken,
        )
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(line.model_dump_json() + "\n")


if __name__ == "__main__":
    sys.stdout.write(measure().model_dump_json())
