"""How fast the machine itself was: readings around each block of runs, in `sentinels.jsonl` of a sweep.

A reading is a fixed piece of work that no framework takes part in. Where it moved, the machine did.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, ValidationError

from dlperf.model import Model

if TYPE_CHECKING:
    from pathlib import Path

SENTINELS_NAME: Final = "sentinels.jsonl"

Rate = Annotated[float, Field(gt=0)]


class Reading(Model):
    """What a machine did in a second: a float32 matrix product on all cores, and a copy in memory."""

    matmul_flops_per_second: Rate
    copy_bytes_per_second: Rate

    def change_to(self, other: Reading) -> tuple[float, float]:
        """log(other / this) of the two."""
        return (
            math.log(other.matmul_flops_per_second / self.matmul_flops_per_second),
            math.log(other.copy_bytes_per_second / self.copy_bytes_per_second),
        )


class BlockReading(Model):
    """One line of the file: a reading before or after the block that holds the runs `case_ids` r`repeat`."""

    schema_version: Literal[1] = 1
    at: str  # ISO 8601, UTC
    position: Literal["before", "after"]
    case_ids: tuple[str, ...]
    repeat: int
    reading: Reading


def read_sentinels(sweep: Path) -> dict[tuple[str, int], dict[str, Reading]]:
    """Readings of a sweep's folder: case id and repeat -> position -> the last such reading.

    A line that cannot be read is passed over: without its reading a comparison says that it has none.
    """
    try:
        lines = (sweep / SENTINELS_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[tuple[str, int], dict[str, Reading]] = {}
    for line in lines:
        try:
            read = BlockReading.model_validate_json(line)
        except ValidationError:
            continue
        for case_id in read.case_ids:
            found.setdefault((case_id, read.repeat), {})[read.position] = read.reading
    return found
