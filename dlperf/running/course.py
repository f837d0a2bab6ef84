"""What several supervisors say about one run, as one story: who failed first, what came of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlperf.results.memory_kill import memory_kill
from dlperf.results.outcome import outcome_of

Content = dict[str, Any]
_NO_CAUSE = frozenset({"completed", "stopped"})


@dataclass(kw_only=True)
class Course:
    """The events of a run's supervisors in the order of their arrival here; the nodes' clocks may differ.

    `node` counts from 0, by node rank. `broken` is the node whose trouble came first, None while none is.
    """

    broken: int | None = None
    first_failed_rank: int | None = None

    def hear(self, node: int, event: Content) -> None:
        """Take note of what a supervisor says."""
        kind = event.get("event")
        if kind == "rank_exit" and (event.get("exit_code") != 0 or event.get("signal") is not None):
            if self.broken is None:
                self.first_failed_rank = event.get("rank")
            self._breaks(node)
        elif kind == "finished" and event["outcome"].get("reason") != "completed":
            self._breaks(node)

    def ended(self, node: int, *, code: int | None) -> None:
        """Take note of a supervisor's end; `code` None where its node was lost."""
        if code != 0:
            self._breaks(node)

    def _breaks(self, node: int) -> None:
        if self.broken is None:
            self.broken = node


def combined(
    outcomes: list[Content | None], *, course: Course, lost: dict[int, str], hosts: list[str]
) -> Content | None:
    """One `outcome.json` of those of all nodes, by node rank; None where the node at fault has left none.

    Args:
        outcomes: what each node's supervisor has left, None where it left nothing.
        course: what was heard meanwhile.
        lost: nodes that were lost, and how. A lost node is the cause of whatever failed elsewhere.
        hosts: names, for nodes that say none.
    """
    told = [outcome for outcome in outcomes if outcome is not None]
    cause = outcomes[course.broken] if course.broken is not None else (told[0] if told else None)
    if cause is not None and cause["reason"] == "stopped":  # by us, for what went wrong elsewhere
        cause = next((other for other in told if other["reason"] not in _NO_CAUSE), cause)
    starved = next(filter(_may_have_lacked_memory, told), None)
    if starved is not None:  # what failed elsewhere, even if that was heard of first, followed from it
        cause = starved
    if lost:
        reason, detail = "lost_node", "; ".join(lost[node] for node in sorted(lost))
    elif cause is None:
        return None
    else:
        reason, detail = cause["reason"], cause["detail"]
    first = course.first_failed_rank if starved is None else starved["first_failed_rank"]
    if first is None and cause is not None:
        first = cause["first_failed_rank"]
    held_by = [outcome["memory_held_by"] for outcome in told if "memory_held_by" in outcome]
    return {
        "schema_version": 1,
        "reason": reason,
        "detail": detail,
        "hosts": [
            outcome["host"] if outcome else name for outcome, name in zip(outcomes, hosts, strict=True)
        ],
        "started_at": min((outcome["started_at"] for outcome in told), default=None),
        "seconds": max((outcome["seconds"] for outcome in told), default=None),
        "ranks": sorted((rank for outcome in told for rank in outcome["ranks"]), key=lambda end: end["rank"]),
        "first_failed_rank": first,
        "oom_kills": cause["oom_kills"] if cause else 0,
        **({"group_oom_kills": cause["group_oom_kills"]} if cause and "group_oom_kills" in cause else {}),
        "cpu_seconds": [outcome.get("cpu_seconds") if outcome else None for outcome in outcomes],
        "processes_left": [pid for outcome in told for pid in outcome["processes_left"]],
        **({"memory_held_by": held_by[0]} if held_by else {}),
    }


def _may_have_lacked_memory(content: Content) -> bool:
    """Whether a kernel has killed a rank of a node for lack of memory, or may have."""
    outcome = outcome_of(content)
    if outcome is None or outcome.reason != "rank_failed":
        return False
    return memory_kill(outcome, first=outcome.first_failed_rank) is not None
