"""`outcome.json` as the supervisor leaves it, read without trust: a damaged one is as none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlperf.logs.events import finite, whole

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnd:
    """How one rank ended; both None where the supervisor does not know."""

    rank: int
    exit_code: int | None
    signal: int | None
    oom_kills: int | None = None  # in its own control group, for lack of memory; None: it had none

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than by exit code 0."""
        return self.exit_code != 0 or self.signal is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the supervisor saw. `reason` is one of docs/architecture.md's; `hosts` are by node rank."""

    reason: str
    detail: str | None
    hosts: tuple[str, ...]
    started_at: str | None
    seconds: float | None
    ranks: tuple[RankEnd, ...]
    first_failed_rank: int | None
    oom_kills: int = 0  # processes that the nodes' kernels killed for lack of memory meanwhile
    group_oom_kills: int | None = None  # of them, in the supervisor's control group; None: not known
    memory_held_by: str | None = None  # what held the ranks' memory budget

    def rank_end(self, rank: int) -> RankEnd | None:
        """How `rank` ended; None where the outcome does not say."""
        return next((end for end in self.ranks if end.rank == rank), None)


def read_outcome(path: Path) -> Outcome | None:
    """The outcome; None where there is no file or no outcome in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
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
