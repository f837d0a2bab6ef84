"""Which rank the others waited for, from the events of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import log_text, make_case, write_run

from dlperf.logs.events import event_line, read_events
from dlperf.plan.case import Topology
from dlperf.results.extract import extract
from dlperf.results.schema import RankTimes
from dlperf.results.straggler import rank_times_line, rank_times_of
from frameworks.common.events import PREFIX

HOSTS = ("gpu0", "gpu1")


def value(own: list[float], step_seconds: float = 2.0) -> dict[str, Any]:
    return {"compute_seconds": own, "exchange_seconds": [max(0.0, step_seconds - part) for part in own]}


def of(*values: Any, iterations: Any = None, nodes: int = 2) -> RankTimes | None:
    """Of the ranks' events, spread evenly over the nodes."""
    events = {
        rank: list(
            read_events(
                [event_line("rank_steps", each, {"iterations": iterations or len(each["compute_seconds"])})]
            )
        )
        for rank, each in enumerate(values)
    }
    return rank_times_of(
        events, topology=Topology(nodes=nodes, devices_per_node=len(values) // nodes), hosts=HOSTS
    )


def test_the_rank_that_the_others_wait_for_is_named_with_its_node() -> None:
    slow = [1.1] * 96 + [0.9] * 4
    times = of(value([1.0] * 100), value([1.0] * 100), value(slow), value([0.99, 1.01] * 50))

    assert times is not None
    assert (2, "gpu1", 96, 100, True) == (
        times.slowest_rank,
        times.host,
        times.slowest_in,
        times.steps,
        times.is_straggler,
    )
    expected = "rank 2 on gpu1: 10% slower than the median of the others, slowest in 96 of 100 steps"
    assert f"{expected}; the others waited" == rank_times_line(times)
    assert pytest.approx((0.5, 0.5, 0.454, 0.5)) == times.exchange_shares


def test_of_two_ranks_the_slow_one_is_named() -> None:
    times = of(value([1.5] * 20), value([1.0] * 20))

    assert times is not None
    assert (0, pytest.approx(0.5), True) == (times.slowest_rank, times.excess, times.is_straggler)


@pytest.mark.parametrize(
    "own",
    [
        pytest.param([1.5] * 9, id="too few steps"),
        pytest.param([1.04] * 100, id="hardly slower"),
        pytest.param([1.5] * 79 + [0.5] * 21, id="not in most steps"),
        pytest.param([1.0, 1.0] + [0.999] * 20, id="one slow moment"),
    ],
)
def test_nobody_is_named_for_what_equal_ranks_show_too(own: list[float]) -> None:
    times = of(value(own), value([1.0] * len(own)))

    assert times is not None
    assert not times.is_straggler
    assert rank_times_line(times).startswith("none; ")


def test_half_of_the_ranks_on_slower_nodes_are_no_straggler() -> None:
    """The others of the slowest are slow too."""
    noise = np.random.default_rng(0).normal(1, 0.02, (8, 100))
    own = noise * np.array([[1.0]] * 4 + [[1.3]] * 4)

    times = of(*(value(list(row)) for row in own))

    assert times is not None
    assert not times.is_straggler


def test_a_step_for_which_a_clock_shows_nothing_is_one_step() -> None:
    times = of(value([1.2] * 20), value([1.0] * 19 + [0.0]))

    assert times is not None
    assert (0, pytest.approx(0.2), True) == (times.slowest_rank, times.excess, times.is_straggler)


def test_a_long_run_is_compared_by_stretches() -> None:
    times = of(value([1.2] * 400), value([1.0] * 400), iterations=1200)

    assert times is not None
    assert "slowest in 400 of 400 stretches of 3 steps" in rank_times_line(times)


GOOD = value([1.0] * 20)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"compute_seconds": [1.0]}, id="half of it"),
        pytest.param(value([1.0] * 19), id="another number of steps"),
        pytest.param(value([0.0] * 20), id="no time at all"),
        pytest.param({"compute_seconds": ["1"] * 20, "exchange_seconds": [0.0] * 20}, id="texts"),
        pytest.param({"compute_seconds": [1e300] * 20, "exchange_seconds": [0.0] * 20}, id="not a time"),
        pytest.param({"compute_seconds": [True] * 20, "exchange_seconds": [0.0] * 20}, id="truths"),
    ],
)
def test_a_rank_that_says_nothing_sensible_was_not_measured(bad: dict[str, Any]) -> None:
    assert of(GOOD, bad) is None


def test_one_rank_waits_for_nobody() -> None:
    assert of(GOOD, nodes=1) is None


def test_a_log_that_claims_a_million_devices_is_no_work() -> None:
    events = {0: list(read_events([event_line("rank_steps", GOOD, {"iterations": 20})]))}

    assert rank_times_of(events, topology=Topology(nodes=10**6, devices_per_node=10**6), hosts=()) is None


@given(
    st.lists(
        st.one_of(
            st.fixed_dictionaries(
                {
                    "compute_seconds": st.lists(st.floats() | st.integers() | st.none(), max_size=12),
                    "exchange_seconds": st.lists(st.floats() | st.integers() | st.none(), max_size=12),
                }
            ),
            st.integers(min_value=1, max_value=14).flatmap(
                lambda count: st.lists(
                    st.floats(min_value=0, max_value=1e9), min_size=count, max_size=count
                ).map(value)
            ),
        ),
        min_size=2,
        max_size=4,
    ),
    st.one_of(st.integers(), st.none(), st.text()),
)
def test_whatever_the_ranks_print_gives_finite_figures_or_none(values: list[Any], iterations: Any) -> None:
    lines = {
        rank: PREFIX
        + json.dumps(
            {
                "namespace": "dlperf",
                "key": "rank_steps",
                "value": each,
                "metadata": {"iterations": iterations},
            }
        )
        for rank, each in enumerate(values)
    }
    events = {rank: list(read_events([line])) for rank, line in lines.items()}

    times = rank_times_of(events, topology=Topology(nodes=1, devices_per_node=len(values)), hosts=())

    if times is not None:
        assert np.isfinite([times.excess, *times.compute_seconds, *times.exchange_shares]).all()
        assert RankTimes.model_validate_json(times.model_dump_json()) == times


def test_result_json_holds_the_comparison_of_the_ranks(tmp_path: Path) -> None:
    case = make_case(topology=Topology(nodes=1, devices_per_node=2))
    folder = write_run(tmp_path / "y1", case)
    for rank, own in enumerate(([0.5] * 12, [1.0] * 12)):
        log = folder / "logs" / f"rank{rank}.log"
        steps = event_line("rank_steps", value(own, 1.0), {"iterations": 12, "rank": rank})
        log.write_text(log_text(case, seconds=[1.0] * 6, rank=rank) + steps)

    times = extract(folder).result.rank_times

    assert times is not None
    assert (1, pytest.approx(1.0), True) == (times.slowest_rank, times.excess, times.is_straggler)
