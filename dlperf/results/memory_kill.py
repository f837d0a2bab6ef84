"""Whether a rank was killed by the kernel for lack of memory, or by somebody else. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlperf.results.outcome import Outcome, RankEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryKill:
    """A rank that the kernel has killed for lack of memory, or may have; `text` says by what that is known.

    `is_told` where the kernel's count is of the rank's own programs, not of every program of its machine.
    """

    end: RankEnd
    is_told: bool
    text: str


def memory_kill(outcome: Outcome, *, first: int | None) -> MemoryKill | None:
    """The rank that was killed for lack of memory; None where none was. `first` is the one that failed first.

    A control group of a rank's own tells for certain, whoever was seen to fail first: the others then report
    broken connections. Without one, `first` must show it by SIGKILL. Then the group that the supervisor
    shares with its ranks tells, of which the kernel takes ranks before all else; the count of the machine
    does not: it may be of any other program.
    """
    starved = next((end for end in outcome.ranks if end.oom_kills), None)
    if starved is not None:
        whom = "it" if starved.signal == signal.SIGKILL else "a process of it"
        return MemoryKill(end=starved, is_told=True, text=f"the kernel ended {whom} for lack of memory")
    end = next((end for end in outcome.ranks if end.rank == first), None)
    if end is None or end.signal != signal.SIGKILL or end.oom_kills is not None:
        return None
    in_group = outcome.group_oom_kills
    if in_group is not None:
        text = f"the kernel ended {_processes(in_group)} of its control group for lack of memory"
        return MemoryKill(end=end, is_told=True, text=text) if in_group else None
    text = (
        f"the kernel ended {_processes(outcome.oom_kills)} of its machine for lack of memory meanwhile; "
        "whether this was one cannot be told, as ranks have no control group of their own there (see dmesg)"
    )
    return MemoryKill(end=end, is_told=False, text=text) if outcome.oom_kills else None


def _processes(count: int) -> str:
    return f"{count} process" if count == 1 else f"{count} processes"
