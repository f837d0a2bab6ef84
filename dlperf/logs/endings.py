"""How the processes of a run ended, as whoever started them says."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_FIRST_SIGNAL_CODE = 128  # a shell reports signal n as 128 + n


class RankEnding(Protocol):
    """How one process ended; both None where not known."""

    @property
    def rank(self) -> int:
        """Its rank."""

    @property
    def exit_code(self) -> int | None:
        """Its exit code; a negative one and one above 128 stand for a signal."""

    @property
    def signal(self) -> int | None:
        """The signal that ended it."""


class Ending(Protocol):
    """How a run ended: what `outcome.json` says (docs/formats.md)."""

    @property
    def reason(self) -> str:
        """`completed`, `rank_failed`, `stall_limit` and so on."""

    @property
    def first_failed_rank(self) -> int | None:
        """The rank that failed first, where known."""

    @property
    def ranks(self) -> Sequence[RankEnding]:
        """One entry per rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownExit:
    """An ending of which one exit code is all that is known; it is its own only rank."""

    exit_code: int
    rank: int = 0
    signal: int | None = None
    first_failed_rank: int | None = None

    @property
    def reason(self) -> str:
        """As the supervisor would say."""
        return "rank_failed" if self.exit_code else "completed"

    @property
    def ranks(self) -> Sequence[RankEnding]:
        """The process itself."""
        return (self,)


def first_failed(outcome: Ending) -> RankEnding | None:
    """The rank that failed first, where any did."""
    failed = [end for end in outcome.ranks if end.exit_code != 0 or end.signal is not None]
    first = [end for end in failed if end.rank == outcome.first_failed_rank]
    return next(iter(first + failed), None)


def signal_name(end: RankEnding) -> str | None:
    """The signal that ended it, such as `SIGKILL`; None where none did."""
    number, code = end.signal, end.exit_code
    if number is None and code is not None:
        number = -code if code < 0 else code - _FIRST_SIGNAL_CODE
    try:
        return None if number is None or number <= 0 else signal.Signals(number).name
    except ValueError:
        return None
