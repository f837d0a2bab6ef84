"""What a rank samples with Partial FC: on the host, and the check of what the device samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from frameworks.common.case import Rank, read_case
from frameworks.common.margin import held_classes
from frameworks.oneflow.sampling import HostSampler, sample_sizes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def of_rank(rank: int) -> Rank:
    return Rank(rank, rank, 0, 2, 2, 1, "", 0, None)


def test_columns_and_index_of_the_ranks_fit_together(parallel_case: Callable[..., Path]) -> None:
    """The columns of all ranks, added up, say where each label's class stands among all samples."""
    content = {"parallelism": "partial_fc", "sample_ratio": 0.1, "num_classes": 319}
    case = read_case(str(parallel_case("sampled", **content)))
    sizes, labels = sample_sizes(case), np.array([0, 318, 159, 160, 0, 12, 300, 161])
    samplers = [HostSampler(case, of_rank(rank), sizes) for rank in range(2)]
    assert [16, 15] == sizes
    for sampler, size in zip(samplers, sizes, strict=True):
        columns, index = sampler.example()
        assert ((8,), (size,)) == (columns.shape, index.shape)
    drawn = [sampler.sample(labels) for sampler in samplers]
    index = np.concatenate([index for _, index in drawn])
    assert labels.tolist() == index[sum(columns for columns, _ in drawn)].tolist()
    for rank, (_, own) in enumerate(drawn):
        assert set(own) <= set(held_classes(case, of_rank(rank)))
        assert sizes[rank] == len(set(own))


def test_more_positives_than_a_rank_samples_are_an_error(parallel_case: Callable[..., Path]) -> None:
    content = {"parallelism": "partial_fc", "sample_ratio": 0.1, "num_classes": 319}
    case = read_case(str(parallel_case("sampled", **content)))
    sampler = HostSampler(case, of_rank(0), [2, 2])
    with pytest.raises(ValueError, match="a batch names 3 classes of a rank that samples 2"):
        sampler.sample(np.array([0, 1, 2, 200, 201, 202, 203, 204]))


@pytest.mark.engine
@pytest.mark.slow
def test_the_device_counts_the_positives_of_the_rank_that_has_most(
    run_program: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    labels = np.random.default_rng(5).integers(0, 40, (6, 16))
    labels[0], labels[1] = 7, np.arange(10, 26)
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, labels=labels, num_classes=40, ranks=4)
    expected = [np.bincount(np.unique(row) // 10, minlength=4).max() for row in labels]
    assert expected == run_program("positives", inputs)["most"].tolist()
