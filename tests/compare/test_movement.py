"""How far the machine itself moved: what steady readings look like is no movement, a real one is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sides import FLAT, side_case

from dlperf.compare.movement import machine_movement
from dlperf.results.sentinels import Reading

if TYPE_CHECKING:
    from dlperf.compare.side import SideCase

NOISE = 0.01  # of a reading, on the scale of logarithms
MACHINES = 400


def readings(stream: np.random.Generator, level: float = 1.0) -> list[Reading]:
    """Of a machine before, between and after five blocks."""
    rates = 1e9 * level * np.exp(stream.normal(0, NOISE, (len(FLAT) + 1, 2)))
    return [
        Reading(matmul_flops_per_second=float(matmul), copy_bytes_per_second=float(copy))
        for matmul, copy in rates
    ]


def read(taken: list[Reading], *, arm: int = 0) -> SideCase:
    """A case whose five runs lie between the readings; its arm is first in every second block."""
    one = side_case()
    runs = tuple(
        run.model_copy(
            update={
                "started_at": f"2026-01-01T10:0{block}:0{(arm + block) % 2}",
                "before": taken[block],
                "after": taken[block + 1],
            }
        )
        for block, run in enumerate(one.runs)
    )
    return one.model_copy(update={"runs": runs})


def moved(stream: np.random.Generator, *, level: float = 1.0) -> bool:
    sides = read(readings(stream)), read(readings(stream, level))
    return machine_movement(*sides, blocked=False) != 0


def test_two_sessions_of_a_steady_machine_seldom_look_like_a_movement() -> None:
    """Two readings, each tested at 1 %; one that two blocks share is one reading."""
    stream = np.random.default_rng(1)
    assert sum(moved(stream) for _ in range(MACHINES)) <= 0.04 * MACHINES


def test_a_machine_that_became_4_percent_slower_between_sessions_is_found() -> None:
    stream = np.random.default_rng(2)
    assert sum(moved(stream, level=0.96) for _ in range(MACHINES)) >= 0.95 * MACHINES


def test_blocks_on_a_steady_machine_seldom_look_like_a_movement() -> None:
    """The reading that ends a block begins the next, where the arms have changed places."""
    stream, found = np.random.default_rng(3), 0
    for _ in range(MACHINES):
        taken = readings(stream)
        found += machine_movement(read(taken), read(taken, arm=1), blocked=True) != 0
    assert found <= 0.06 * MACHINES
