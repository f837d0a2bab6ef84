"""The arithmetic beside the measurements of shaped links."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_case

from dlperf.plan.case import Topology
from frameworks.common.case import case_from_dict
from frameworks.common.cost import model_cost

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from link_theory import Measured, link_seconds, page, theory

CLASSES = 50_000


def content(parallelism: str, *, nodes: int = 2) -> dict[str, Any]:
    case = make_case(
        parallelism=parallelism,
        topology=Topology(nodes=nodes, devices_per_node=1),
        num_classes=CLASSES,
        sample_ratio=0.1 if parallelism == "partial_fc" else None,
    )
    return case.model_dump(mode="json")


def sent(parallelism: str) -> float:
    return sum(theory(content(parallelism)))


def test_data_parallel_sends_the_gradient_of_every_weight_once_with_two_ranks() -> None:
    cost = model_cost(case_from_dict(content("data")))
    assert 4 * (cost.network_parameters + CLASSES * 128) == sent("data")


def test_what_split_classes_send_does_not_grow_with_them() -> None:
    cost = model_cost(case_from_dict(content("model")))
    # 8 samples a rank: labels, embeddings, their gradient; of 16 samples a maximum and two sums
    softmax = 8 * (8 + 4 * 128) + 8 * 4 * 128 + 16 * 3 * 4
    assert 4 * cost.network_parameters + softmax == sent("model") == sent("partial_fc")


def test_a_rank_alone_sends_nothing() -> None:
    assert [0.0, 0.0] == [sum(theory(content(kind, nodes=1))) for kind in ("data", "model")]


def test_a_link_carries_headers_too() -> None:
    assert pytest.approx(8 * 1514 / 1e9) == link_seconds(1448, 1e9)
    assert link_seconds(1448, None) == 0.0


def test_a_step_slower_than_theory_is_told_and_a_case_without_a_run_too() -> None:
    def one(link: str, bits: float | None, seconds: float | None, *, nodes: int = 2) -> Measured:
        return Measured(
            link=link,
            bits_per_second=bits,
            case=content("data", nodes=nodes),
            step_seconds=seconds,
            samples_per_sec=None if seconds is None else 8 * nodes / seconds,
            runs=1,
            communication_seconds=None,
        )

    slow = 2 * (link_seconds(sent("data"), 1e9) + 0.5)
    made = page([one("none", None, 0.5), one("1 Gbit/s", 1e9, slow), one("x", 1e8, None)], {"data": 3e7})
    assert f"| {slow:.3f} | 100 % above | not told |" in made
    took = link_seconds(sent("data"), 1e8)
    assert f"| data parallel | x | {took:.3f} |  | not measured |  | not told |" in made
    assert "| data parallel | 1 Gbit/s | | not measured |" in made  # one host was not measured
