"""Which device, node or link is named as worse than its equals, than good ones, or than it was."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import make_measurement

from dlperf.errors import UserError
from dlperf.results.measurement import Measurement, Series
from dlperf.results.outliers import (
    Judgement,
    judge_change,
    judge_equals,
    judge_reference,
    machine_baseline,
)
from dlperf.statistics.outliers import among_equals


def named(judgement: Judgement) -> list[str]:
    return [str(finding) for finding in judgement.findings]


def test_equal_nodes_are_not_named() -> None:
    """By Holm a measurement of equals names any at most 1 time in 20; the margin makes it rarer."""
    judgements = [judge_equals(make_measurement(noise=0.05, seed=seed)) for seed in range(40)]
    assert [] == [text for judgement in judgements for text in named(judgement)]
    assert judgements[0].tests == 4 * 3 + 2 * 6 + 2 * 4


def test_a_slow_device_is_named_with_how_slow_it_is() -> None:
    judgement = judge_equals(make_measurement(factors={("matrix_fp32", "node2"): 0.5}, noise=0.0001))
    assert ["node node2: matrix rate fp32 50 % below the median of its 3 equals"] == named(judgement)


def test_a_slow_link_is_named_and_its_nodes_are_not() -> None:
    factors = {("link_bandwidth", "node1", "node3"): 0.1}
    (text,) = named(judge_equals(make_measurement(5, factors=factors, noise=0.0001)))
    assert text == "link node1 to node3: bandwidth 90 % below the median of its 9 equals"


def test_a_node_whose_links_are_slow_is_named_once() -> None:
    factors = {("link_bandwidth", *pair): 0.1 for pair in (("node0", "node1"), ("node1", "node2"))}
    judgement = judge_equals(make_measurement(3, factors=factors, noise=0.0001))
    assert ["node node1 on most of its links: bandwidth 90 % below the median of its 2 equals"] == named(
        judgement
    )


def test_a_longer_latency_is_worse_and_a_shorter_one_is_not() -> None:
    pairs = {("link_latency", "node0", "node1"): 3.0, ("link_latency", "node2", "node3"): 0.2}
    (text,) = named(judge_equals(make_measurement(factors=pairs, noise=0.0001)))
    assert text == "link node0 to node1: latency 200 % above the median of its 5 equals"


def test_one_that_is_faster_does_not_make_the_others_slow() -> None:
    assert not named(judge_equals(make_measurement(3, factors={("matrix_fp32", "node0"): 2.0})))


def test_a_difference_within_the_margin_is_none() -> None:
    factors = {("matrix_fp32", "node0"): 0.96, ("disk_write", "node1"): 0.8}
    measurement = make_measurement(factors=factors, noise=0.0001)
    assert not named(judge_equals(measurement))
    assert len(named(judge_equals(measurement, {"matrix_fp32": 0.02}))) == 1


def test_one_disturbed_repeat_names_nobody_and_hides_nobody() -> None:
    draw = random.Random(3)  # noqa: S311  no secret
    series = {node: [draw.gauss(0, 0.01) for _ in range(5)] for node in "abcd"}
    series["a"][2] -= 1.0
    series["b"] = [value - 0.7 for value in series["b"]]
    deficits = among_equals(series)
    assert deficits["a"].p(0.05) > 0.5
    assert deficits["b"].p(0.05) < 0.01


def test_machines_of_another_kind_are_no_equals() -> None:
    fast, slow = make_measurement(2), make_measurement(2, factors={}, cpu="Atom")
    renamed = {"node0": "node2", "node1": "node3"}
    others = [
        one.model_copy(update={"node": renamed[one.node], "values": tuple(0.1 * v for v in one.values if v)})
        for one in slow.series
        if one.peer is None
    ]
    nodes = [one.model_copy(update={"name": renamed[one.name]}) for one in slow.nodes]
    both = fast.model_copy(update={"nodes": (*fast.nodes, *nodes), "series": (*fast.series, *others)})
    assert not named(judge_equals(both))


def test_what_an_equal_could_do_and_a_node_could_not_is_named_with_the_reason() -> None:
    def without(measurement: Measurement, *, node: str, metric: str, peer: str | None = None) -> Measurement:
        def changed(one: Series) -> Series:
            if (one.node, one.metric, one.peer) != (node, metric, peer):
                return one
            return one.model_copy(update={"values": (None,) * 5, "reason": "no\x1bspace"})

        return measurement.model_copy(update={"series": tuple(map(changed, measurement.series))})

    measurement = without(make_measurement(), node="node1", metric="disk_write")
    measurement = without(measurement, node="node0", metric="link_latency", peer="node2")
    measurement = measurement.model_copy(update={"lost": {"node9": "no route to host"}})
    judgement = judge_equals(measurement)
    assert [
        "node node1: disk write could not be measured: no space",
        "link node0 to node2: latency could not be measured: no space",
    ] == named(judgement)
    assert ["node node9: not measured, nor its links: no route to host"] == list(map(str, judgement.missing))


def test_a_node_alone_and_too_few_repeats_are_said() -> None:
    alone, short = judge_equals(make_measurement(1)), judge_equals(make_measurement(repeats=2))
    assert (0, 0) == (alone.tests, short.tests)
    assert alone.notes == ("without an equal, so that only a reference can judge it: node node0",)
    assert short.notes == ("nothing is judged on fewer than 3 repeats",)


def test_a_reference_judges_a_node_alone() -> None:
    reference = machine_baseline("good", [make_measurement(seed=1)])
    slow = make_measurement(1, factors={("memory_bandwidth", "node0"): 0.5}, noise=0.0001, seed=2)
    (text,) = named(judge_reference(slow, reference))
    assert text.startswith("node node0: memory bandwidth 50 % below the reference good (median of 4 good")
    assert not named(judge_reference(make_measurement(1, seed=3), reference))


def test_a_reference_of_other_machines_or_versions_judges_nothing() -> None:
    reference = machine_baseline("good", [make_measurement(seed=1)])
    other = judge_reference(make_measurement(cpu="Atom"), reference)
    assert (0, ("good has fewer than 3 good values for some figures of: Atom",)) == (
        other.tests,
        other.notes[:1],
    )
    with pytest.raises(UserError, match="was measured with PyTorch"):
        judge_reference(make_measurement(engine="2.14.0"), reference)
    with pytest.raises(UserError, match="a reference needs 3 good nodes, 2 given"):
        machine_baseline("few", [make_measurement()], nodes=["node0", "node1"])


def test_a_change_is_against_the_node_itself() -> None:
    before = make_measurement(2, factors={("matrix_fp32", "node1"): 0.5}, noise=0.001, seed=1)
    after = make_measurement(2, factors={("matrix_fp32", "node0"): 0.5}, noise=0.001, seed=2)
    (text,) = named(judge_change(before, after))
    assert text == "node node0: matrix rate fp32 50 % below its own of 2026-12-01 10:00"


_levels = st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=2, max_size=8)


@given(_levels, st.floats(-3, 3))
def test_a_unit_of_measurement_changes_no_deficit(levels: list[list[float]], shift: float) -> None:
    plain = among_equals(dict(enumerate(levels)))
    shifted = among_equals({node: [v + shift for v in row] for node, row in enumerate(levels)})
    for node, deficit in plain.items():
        assert math.isclose(deficit.log_ratio, shifted[node].log_ratio, abs_tol=1e-9)
        assert 0 <= deficit.p(0.05) <= 1
