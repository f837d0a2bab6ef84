"""Several supervisors' outcomes become one: who failed first, whatever their clocks say."""

from __future__ import annotations

from typing import Any

import pytest

from dlperf.running.supervision import FailureTracker, merge_outcomes


def outcome(reason: str, *ranks: tuple[int, int | None], first: int | None = None) -> dict[str, Any]:
    ends = [
        {"rank": rank, "exit_code": code, "signal": None if code is not None else 9, "seconds": 1.0}
        for rank, code in ranks
    ]
    return {
        "reason": reason,
        "detail": None,
        "host": f"host{ranks[0][0]}",
        "started_at": f"2026-01-0{1 + ranks[0][0]}",
        "seconds": 10.0 + ranks[0][0],
        "ranks": ends,
        "first_failed_rank": first,
        "oom_kills": ranks[0][0],
        "processes_left": [100 + ranks[0][0]],
    }


def exits(rank: int, code: int | None, signal: int | None = None) -> dict[str, Any]:
    return {"event": "rank_exit", "rank": rank, "exit_code": code, "signal": signal}


def together(
    failures: FailureTracker, *outcomes: dict[str, Any] | None, lost: dict[int, str] | None = None
) -> Any:
    return merge_outcomes(list(outcomes), failures=failures, lost=lost or {}, hosts=["a", "b"])


def test_a_rank_that_the_kernel_killed_for_memory_is_the_cause_whoever_was_heard_first() -> None:
    """Node 0's rank saw the connection break and was the first to be heard of."""
    failures = FailureTracker()
    failures.on_event(0, exits(0, 3))
    failures.on_event(1, exits(1, None, signal=9))
    merged = together(
        failures, outcome("rank_failed", (0, 3), first=0), outcome("rank_failed", (1, None), first=1)
    )
    assert (1, 1) == (merged["first_failed_rank"], merged["oom_kills"])


def test_what_held_the_memory_budget_is_kept() -> None:
    held = [outcome("completed", (rank, 0)) | {"memory_held_by": "cgroup"} for rank in range(2)]
    assert "cgroup" == together(FailureTracker(), *held)["memory_held_by"]
    assert "memory_held_by" not in together(FailureTracker(), outcome("completed", (0, 0)), None)


def test_all_well() -> None:
    failures = FailureTracker()
    failures.on_event(0, exits(0, 0))
    failures.on_exit(0, code=0)
    failures.on_exit(1, code=0)
    merged = together(failures, outcome("completed", (0, 0)), outcome("completed", (1, 0)))
    assert ("completed", None, ["host0", "host1"]) == (
        merged["reason"],
        merged["first_failed_rank"],
        merged["hosts"],
    )
    assert ("2026-01-01", 11.0, [0, 1]) == (
        merged["started_at"],
        merged["seconds"],
        [end["rank"] for end in merged["ranks"]],
    )
    assert [100, 101] == merged["processes_left"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_failure_that_was_heard_of_first_is_the_cause(order: tuple[int, int]) -> None:
    failures = FailureTracker()
    for node in order:
        failures.on_event(node, exits(node, 3))
    merged = together(
        failures, outcome("rank_failed", (0, 3), first=0), outcome("rank_failed", (1, 3), first=1)
    )
    assert (order[0], order[0], order[0]) == (
        failures.first_failed_node,
        merged["first_failed_rank"],
        merged["oom_kills"],
    )


def test_nodes_that_were_stopped_for_another_are_not_the_cause() -> None:
    failures = FailureTracker()
    failures.on_exit(0, code=1)
    merged = together(failures, outcome("stopped", (0, None)), outcome("stall_limit", (1, None)))
    assert merged["reason"] == "stall_limit"


def test_a_lost_node_is_the_cause_whatever_failed_before() -> None:
    failures = FailureTracker()
    failures.on_event(0, exits(0, 1))
    failures.on_exit(1, code=None)
    merged = together(
        failures, outcome("rank_failed", (0, 1), first=0), None, lost={1: "b: the connection broke"}
    )
    assert ("lost_node", "b: the connection broke", ["host0", "b"]) == (
        merged["reason"],
        merged["detail"],
        merged["hosts"],
    )


def test_a_supervisor_that_left_nothing_leaves_no_outcome() -> None:
    failures = FailureTracker()
    failures.on_exit(1, code=4)
    assert together(failures, outcome("stopped", (0, None)), None) is None


def test_every_node_lost() -> None:
    failures = FailureTracker()
    failures.on_exit(0, code=None)
    merged = together(failures, None, None, lost={0: "a: gone", 1: "b: gone"})
    assert ("lost_node", "a: gone; b: gone", [], None) == (
        merged["reason"],
        merged["detail"],
        merged["ranks"],
        merged["seconds"],
    )
