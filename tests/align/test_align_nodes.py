"""Nodes compared by the fingerprints of what they computed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dlperf.align.certificate import Tolerance
from dlperf.align.nodes import (
    Fingerprint,
    FrameworkEquality,
    NodeOutputs,
    compare_nodes,
    lines,
    read_fingerprints,
)
from dlperf.align.nodes import NodeEquality as Equality
from dlperf.cli import main
from frameworks.common.align import fingerprint
from frameworks.common.events import EventLog

CPU, OTHER_CPU = "Example CPU 3000; 2.13.0", "Example CPU 9000; 2.13.0"
NAMES = ("input/parameter/conv.weight", "embeddings", "gradient_norm/conv.weight", "parameter/conv.weight")


def outputs(node: str, *, change: float = 0.0, of: str = "", hardware: str = CPU) -> NodeOutputs:
    """Arrays of 1000 elements, of which those of the name `of` are changed by a share of them."""
    stream = np.random.default_rng(0)
    arrays = {name: stream.standard_normal(1000).astype(np.float32) for name in NAMES}
    if of:
        noise = np.random.default_rng(1).standard_normal(1000)
        arrays[of] = (arrays[of] * (1 + change * noise)).astype(np.float32)
    return NodeOutputs(
        node, hardware, {name: Fingerprint(**fingerprint(array)) for name, array in arrays.items()}
    )


def compared(*nodes: NodeOutputs, device: str = "cpu") -> FrameworkEquality:
    return compare_nodes("pytorch==2.13.0", nodes, absent={}, device=device, tolerance=Tolerance())


def said(one: FrameworkEquality) -> str:
    return "\n".join(lines(Equality.model_construct(frameworks=(one,))))


def test_equal_nodes_compute_the_same() -> None:
    found = compared(outputs("a"), outputs("b"), outputs("c", hardware=OTHER_CPU))

    assert found.passed
    assert "pytorch==2.13.0: 3 nodes compute the same" == said(found)


def test_a_bit_tells_nodes_of_one_kind_apart() -> None:
    found = compared(outputs("a"), outputs("b", change=1e-7, of="embeddings"), outputs("c"))

    assert not found.passed
    assert "pytorch==2.13.0: b computes something else than a and c: 1 of 4 arrays differ, " in said(found)
    assert "first embeddings, by up to " in said(found)


@pytest.mark.parametrize(("hardware", "device"), [(OTHER_CPU, "cpu"), (CPU, "cuda")])
def test_rounding_tells_no_other_nodes_apart_but_a_wrong_result_does(hardware: str, device: str) -> None:
    rounded = outputs("c", change=1e-6, of="embeddings", hardware=hardware)
    wrong = outputs("c", change=1e-2, of="embeddings", hardware=hardware)

    assert compared(outputs("a"), outputs("b"), rounded, device=device).passed
    assert ("c",) == compared(outputs("a"), outputs("b"), wrong, device=device).differ[0].nodes


def test_of_two_nodes_none_is_named() -> None:
    found = compared(outputs("a"), outputs("b", change=0.5, of="embeddings"))

    assert not found.has_majority
    assert "b and a differ, and there is no majority: 1 of 4 arrays differ" in said(found)


def test_two_against_two_is_no_majority() -> None:
    wrong = [outputs(node, change=0.5, of="embeddings") for node in "cd"]

    assert not compared(outputs("a"), outputs("b"), *wrong).has_majority


def test_two_nodes_that_are_wrong_in_two_ways_are_both_named() -> None:
    found = compared(
        *(outputs(node) for node in "abc"),
        outputs("d", change=0.5, of="parameter/conv.weight"),
        outputs("e", change=0.5, of="gradient_norm/conv.weight"),
    )

    assert {"d": "parameter/conv.weight", "e": "gradient_norm/conv.weight"} == {
        one.nodes[0]: one.first for one in found.differ
    }
    assert found.has_majority


def test_other_weights_or_batches_are_told_as_such() -> None:
    found = compared(outputs("a"), outputs("b"), outputs("c", change=1e-3, of=NAMES[0]))

    assert "first input/parameter/conv.weight" in said(found)


def test_a_node_that_computed_nothing_fails_the_comparison() -> None:
    found = compare_nodes(
        "mxnet==1.9.1", [outputs("a")], absent={"b": "lost"}, device="cpu", tolerance=Tolerance()
    )

    assert not found.passed
    assert "mxnet==1.9.1: b computed nothing: lost" in said(found)


def test_infinite_values_differ_from_finite_ones_and_not_from_themselves() -> None:
    infinite = outputs("c", change=np.inf, of="embeddings")

    assert None is compared(outputs("a"), outputs("b"), infinite).differ[0].difference
    assert compared(infinite, infinite._replace(node="d")).passed


def test_a_projection_differs_by_about_the_norm_of_the_difference() -> None:
    one = np.random.default_rng(0).standard_normal(10_000)
    noise = np.random.default_rng(1).standard_normal(10_000)
    noise -= one * (one @ noise) / (one @ one)  # which leaves the norm as it was

    first, second = fingerprint(one), fingerprint(one + 1e-3 * noise)

    assert 1e-5 < abs(first["projection"] - second["projection"]) / first["norm"] < 1e-2


def test_fingerprints_are_read_from_a_log_that_may_hold_anything(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = EventLog(0, stream)
    log.event("fingerprint", fingerprint(np.ones(4)), name="embeddings")
    log.event("fingerprint", {"sha256": 5, "norm": "x"}, name="losses")
    log.event("fingerprint", [1], name="no value")
    log.event("fingerprint", {})
    path = tmp_path / "rank0.log"
    path.write_text("noise\n" + stream.getvalue() + ":::MLLOG {")

    found = read_fingerprints(path)

    assert ["embeddings", "losses"] == list(found)
    assert 2.0 == found["embeddings"].norm
    assert Fingerprint("5", None, None) == found["losses"]


CLUSTER = "device: cpu\ndevices: 1\ncores: 1\nnodes: [a, b]\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--topology", "1n2g"], "--cluster: each node trains alone on its own device; leave --topology out"),
        (["--reference", "auto"], "leave --reference out"),
        (["--device", "cpu"], "leave --device out"),
        (["--precision", "bf16"], "--precision bf16: take --frameworks pytorch"),
        (["--frameworks", "torch"], "--frameworks: unknown framework 'torch'"),
    ],
)
def test_what_has_no_meaning_between_nodes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CLUSTER)

    done = CliRunner().invoke(main, ["align", "y1_emore", "--cluster", "mine.yaml", *words])

    assert done.exit_code == 2, done.output
    assert complaint in done.stderr


def test_one_node_has_no_other_to_be_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CLUSTER.replace("[a, b]", "[a]"))

    done = CliRunner().invoke(main, ["align", "y1_emore", "--cluster", "mine.yaml"])

    assert done.exit_code == 2
    assert "mine.yaml: has one node; two or more can be compared" in done.stderr
