"""Two ranks in real processes: the three ways to split a case compute one function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.engine, pytest.mark.slow]

Arrays = dict[str, np.ndarray]

CLASSIFIER = "parameter/classifier.weight"
# How far apart two computations of the same in float32 may be, in units of an array's largest value.
TOLERANCE = 1e-4


def as_one(of_ranks: list[Arrays], *, split: bool) -> Arrays:
    """What the ranks of a case computed, as one process of all devices shows it."""
    joined = dict(of_ranks[0])
    joined["embeddings"] = np.concatenate([arrays["embeddings"] for arrays in of_ranks])
    for name in of_ranks[0]:
        if "buffer/" in name:
            joined[name] = np.stack([arrays[name] for arrays in of_ranks])
        elif split and name.endswith(CLASSIFIER):
            joined[name] = np.concatenate([arrays[name] for arrays in of_ranks])
        elif split and name == "gradient_norm/classifier.weight":
            joined[name] = np.linalg.norm([arrays[name] for arrays in of_ranks])
    return joined


def assert_same(expected: Arrays, found: Arrays) -> None:
    """By the measures of `dlperf align`: gradient norms, which kinks of PReLU move, count by themselves."""
    assert expected.keys() == found.keys()
    norms = {name: array for name, array in expected.items() if name.startswith("gradient_norm/")}
    floor = 1e-3 * np.linalg.norm(list(norms.values()))
    for name, array in expected.items():
        assert array.shape == found[name].shape, name
        allowed = 1e-3 * max(array, floor) if name in norms else TOLERANCE * np.abs(array).max()
        np.testing.assert_allclose(found[name], array, rtol=0, atol=allowed, err_msg=name)


def test_data_model_and_whole_partial_fc_are_one_function(
    parallel_case: Callable[..., Path], align: Callable[..., list[Arrays]]
) -> None:
    """51 classes over two ranks, three steps: losses, embeddings, gradients, statistics and parameters."""
    data = align(parallel_case("data"))
    assert data[0]["losses"].tolist() == data[1]["losses"].tolist()
    assert (data[0]["buffer/conv1.bn.running_mean"] != data[1]["buffer/conv1.bn.running_mean"]).all()
    assert (data[0]["parameter/conv1.conv.weight"] == data[1]["parameter/conv1.conv.weight"]).all()

    for path in (
        parallel_case("model", parallelism="model"),
        parallel_case("whole", parallelism="partial_fc", sample_ratio=1.0),
    ):
        of_ranks = align(path)
        assert of_ranks[0]["losses"].tolist() == of_ranks[1]["losses"].tolist()
        assert [(26, 128), (25, 128)] == [arrays[CLASSIFIER].shape for arrays in of_ranks]
        assert_same(as_one(data, split=False), as_one(of_ranks, split=True))


def test_with_frozen_statistics_two_ranks_are_one_with_the_whole_batch(
    parallel_case: Callable[..., Path], align: Callable[..., list[Arrays]]
) -> None:
    frozen = {"batch_norm": "frozen"}
    two = align(parallel_case("two", workload=frozen, parallelism="model"))
    one = parallel_case("one", devices=1, workload=frozen, batch_size=8)
    (single,) = align(one, one.parent / "two.inputs.npz")

    found = as_one(two, split=True)
    buffers = {name: array[0] for name, array in found.items() if "buffer/" in name}
    assert_same(single, {**found, **buffers})
    for name in buffers:
        assert (found[name][0] == found[name][1]).all()
