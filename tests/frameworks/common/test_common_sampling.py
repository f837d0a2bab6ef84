"""Which classes a rank samples in Partial FC, and how many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frameworks.common.case import Case, Rank, case_from_dict
from frameworks.common.margin import class_range, held_classes
from frameworks.common.sampling import (
    HostSampler,
    sample_size,
    sample_sizes,
    sampled_classes,
    sampling_stream,
)


def partial_fc(content: dict, *, classes: int, devices: int, ratio: float, batch: int = 4) -> Case:
    return case_from_dict(
        {
            **content,
            "parallelism": "partial_fc",
            "sample_ratio": ratio,
            "num_classes": classes,
            "batch_size_per_device": batch,
            "topology": {"nodes": 1, "devices_per_node": devices},
        }
    )


def test_the_published_cases_sample_their_ratio_exactly(case_content: dict) -> None:
    """85744 classes, 8 and 32 devices, the largest batches of 2021: the ratio decides, not the positives."""
    for devices, batch, expected in ((8, 64, 1071), (8, 120, 1071), (32, 120, 268)):
        case = partial_fc(case_content, classes=85_744, devices=devices, ratio=0.1, batch=batch)
        assert expected == sample_size(case, 0)


def test_a_ratio_of_one_samples_all(case_content: dict) -> None:
    case = partial_fc(case_content, classes=51, devices=2, ratio=1.0)

    assert [26, 25] == [sample_size(case, rank) for rank in range(2)]


# The fixture's content is read and not changed, so that all examples may share it.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(8, 5000), st.integers(1, 8), st.floats(0.001, 1), st.integers(1, 200), st.integers(0, 2**32)
)
def test_every_positive_is_sampled_and_no_class_twice(
    case_content: dict, classes: int, devices: int, ratio: float, batch: int, seed: int
) -> None:
    case = partial_fc(case_content, classes=classes, devices=devices, ratio=ratio, batch=batch)
    case = case._replace(seed=seed)
    labels = np.random.default_rng(seed).integers(0, classes, case.global_batch_size)
    for rank in range(devices):
        held = range(*class_range(classes, devices, rank))
        size = sample_size(case, rank)

        rows = sampled_classes(labels, held, size, sampling_stream(case, rank))

        assert (np.int64, size) == (rows.dtype, len(rows))
        assert list(rows) == sorted(set(rows.tolist()))
        assert 0 <= rows[0] <= rows[-1] < len(held)
        assert {label - held.start for label in labels.tolist() if label in held} <= set(rows.tolist())


def test_samples_follow_the_seed_and_differ_between_ranks_and_steps(case_content: dict) -> None:
    case = partial_fc(case_content, classes=10_000, devices=2, ratio=0.1)
    labels = np.array([1, 2, 3])

    def two_steps(rank: int) -> list[list[int]]:
        stream, held = sampling_stream(case, rank), range(5000)
        return [sampled_classes(labels, held, 500, stream).tolist() for _ in range(2)]

    first, again, other = two_steps(0), two_steps(0), two_steps(1)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]


def test_every_class_is_drawn_equally_often(case_content: dict) -> None:
    case = partial_fc(case_content, classes=100, devices=1, ratio=0.1)
    stream = sampling_stream(case, 0)

    counts = np.zeros(100)
    for _ in range(2000):
        counts[sampled_classes(np.array([7]), range(100), 10, stream)] += 1

    assert 2000 == counts[7]
    others = np.delete(counts, 7)
    # 9 of 99 a step: binomial, mean 182, standard deviation 13.
    assert pytest.approx(2000 * 9 / 99, abs=6 * 13) == others.min()
    assert pytest.approx(2000 * 9 / 99, abs=6 * 13) == others.max()


def test_more_positives_than_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="names 3 classes of a rank that samples 2; take a larger"):
        sampled_classes(np.array([10, 11, 12, 99]), range(10, 20), 2, np.random.default_rng(0))


@pytest.mark.parametrize("devices", [1, 2], ids=["a process per device", "one process"])
def test_a_host_sampler_says_where_each_label_stands_in_its_sample(case_content: dict, devices: int) -> None:
    """Placed one after the other, the samples of all processes hold every class that the batch names."""
    case = partial_fc(case_content, classes=319, devices=2, ratio=0.1)
    labels, index = np.array([0, 318, 159, 160, 0, 12, 300, 161]), np.empty(0, np.int64)
    assert [16, 15] == sample_sizes(case)
    for number in range(0, 2, devices):
        sampler = HostSampler(case, Rank(number, number, 0, 2, 2, devices, "", 0, None))
        assert sum(sample_sizes(case)[number : number + devices]) == sampler.size
        rows = sampler.sample(labels)
        places = sampler.places(labels, rows)
        inside = np.isin(labels, sampler.held)
        assert (-1 == places[~inside]).all()
        assert (labels[inside] - sampler.held.start).tolist() == rows[places[inside]].tolist()
        index = np.append(index, rows + sampler.held.start)
    assert set(labels) <= set(index)
    assert 31 == len(set(index))


def test_data_parallel_holds_all_classes_and_the_others_a_share(case_content: dict) -> None:
    data = case_from_dict({**case_content, "topology": {"nodes": 1, "devices_per_node": 4}})
    rank = Rank(1, 1, 0, 4, 4, 1, "127.0.0.1", 0, None)

    assert range(100) == held_classes(data, rank)
    assert range(25, 50) == held_classes(data._replace(parallelism="model"), rank)
    both = rank._replace(rank=2, devices=2)
    assert range(50, 100) == held_classes(data._replace(parallelism="model"), both)
