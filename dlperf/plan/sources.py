"""The source of an original training program: found, hashed, and later packed for the nodes."""

from dataclasses import dataclass
from pathlib import Path

from dlperf.plan.case import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFiles:
    """The files of an original program on this machine, and what names them in a case."""

    source: Source
    checkout: Path  # absolute; of it the adapter's `source.folders` count
