"""How a run ended: `outcome.json` as the supervisor leaves it. A damaged one counts as none."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dlperf.files import read_regular
from dlperf.logs.events import finite, whole

_FIRST_SIGNAL_CODE = 128  # a shell reports signal n as 128 + n


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnd:
    """How one rank ended; both None where not known."""

    rank: int
    exit_code: int | None  # a negative one, or one above 128, stands for a signal
    signal: int | None
    oom_kills: int | None = None  # in its own control group, for lack of memory; None: it had none

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than by exit code 0."""
        return self.exit_code != 0 or self.signal is not None

    @property
    def signal_name(self) -> str | None:
        """The signal that ended it, such as `SIGKILL`; None where none did."""
        number, code = self.signal, self.exit_code
        if number is None and code is not None:
            number = -code if code < 0 else code - _FIRST_SIGNAL_CODE
        try:
            return None if number is None or number <= 0 else signal.Signals(number).name
        except ValueError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the supervisor saw. `reason` is one of docs/formats.md's; `hosts` are by node rank."""

    reason: str
    detail: str | None = None
    hosts: tuple[str, ...] = ()
    started_at: str | None = None
    seconds: float | None = None
    ranks: tuple[RankEnd, ...] = ()
    first_failed_rank: int | None = None
    oom_kills: int = 0  # processes that the nodes' kernels killed for lack of memory meanwhile
    group_oom_kills: int | None = None  # of them, in the supervisor's control group; None: not known
    memory_held_by: str | None = None  # what held the ranks' memory budget

    @classmethod
    def of_exit(cls, exit_code: int) -> Self:
        """The outcome of one process of which only the exit code is known."""
        end = RankEnd(rank=0, exit_code=exit_code, signal=None)
        return cls(reason="rank_failed" if exit_code else "completed", ranks=(end,))

    @property
    def first_failed(self) -> RankEnd | None:
        """The rank that failed first, where any did."""
        failed = [end for end in self.ranks if end.failed]
        return next((end for end in failed if end.rank == self.first_failed_rank), next(iter(failed), None))

    def rank_end(self, rank: int) -> RankEnd | None:
        """How `rank` ended; None where the outcome does not say."""
        return next((end for end in self.ranks if end.rank == rank), None)


def read_outcome(path: Path) -> Outcome | None:
    """The outcome; None where there is no file or no outcome in it."""
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return None
    return outcome_of(content)


def outcome_of(content: Any) -> Outcome | None:
    """The outcome that JSON holds; None where it is none."""
    if not isinstance(content, dict) or not isinstance(content.get("reason"), str):
        return None
    memory_held_by = _text(content.get("memory_held_by"))
    return Outcome(
        reason=content["reason"],
        detail=_text(content.get("detail")),
        hosts=_hosts(content),
        started_at=_text(content.get("started_at")),
        seconds=finite(content.get("seconds")),
        ranks=tuple(_rank_ends(content.get("ranks"), have_groups=memory_held_by != "rlimit_data")),
        first_failed_rank=whole(content.get("first_failed_rank")),
        oom_kills=whole(content.get("oom_kills")) or 0,
        group_oom_kills=whole(content.get("group_oom_kills")),
        memory_held_by=memory_held_by,
    )


def _hosts(content: dict[str, Any]) -> tuple[str, ...]:
    hosts = content.get("hosts")
    if isinstance(hosts, list):
        return tuple(str(host) for host in hosts)
    host = _text(content.get("host"))
    return (host,) if host else ()


def _rank_ends(ranks: Any, *, have_groups: bool) -> list[RankEnd]:
    """Supervisors once wrote 0 for ranks that RLIMIT_DATA held, which have no group to count in."""
    entries = [entry for entry in ranks if isinstance(entry, dict)] if isinstance(ranks, list) else []
    return [
        RankEnd(
            rank=rank,
            exit_code=whole(entry.get("exit_code")),
            signal=whole(entry.get("signal")),
            oom_kills=whole(entry.get("oom_kills")) if have_groups else None,
        )
        for entry in entries
        if (rank := whole(entry.get("rank"))) is not None
    ]


def _text(value: Any) -> str | None:
    # JSON can name half a surrogate pair; UTF-8 cannot hold it.
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
