from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.common.initial import initial_buffers, initial_classifier, initial_parameters
from frameworks.common.networks import buffers, build, parameters

LAYERS = build("mobilefacenet", "GDC", 128, 0.4)


def test_every_parameter_has_its_shape() -> None:
    made = initial_parameters(LAYERS, seed=3)

    assert {spec.name: spec.shape for spec in parameters(LAYERS)} == {
        name: array.shape for name, array in made.items()
    }
    assert {np.dtype(np.float32)} == {array.dtype for array in made.values()}


@pytest.mark.parametrize(
    ("name", "fan_out"),
    [
        ("stage2.unit1.expand.conv.weight", 256),
        ("stage2.unit1.depthwise.conv.weight", 256 * 9),  # groups are not divided out
        ("head.linear.weight", 128),
    ],
)
def test_weights_have_variance_two_over_fan_out(name: str, fan_out: int) -> None:
    values = initial_parameters(LAYERS, seed=0)[name]

    assert np.sqrt(2 / fan_out) == pytest.approx(values.std(), rel=0.05)
    assert 0 == pytest.approx(values.mean(), abs=4 * np.sqrt(2 / fan_out / values.size))


def test_constants_of_norms_slopes_and_bias() -> None:
    made = initial_parameters(LAYERS, seed=0)
    expected = {"conv1.bn.weight": 1, "conv1.bn.bias": 0, "conv1.prelu.weight": 0.25, "head.linear.bias": 0}

    assert expected == {name: float(np.unique(made[name]).item()) for name in expected}


def test_running_statistics_start_at_mean_zero_variance_one() -> None:
    made = initial_buffers(LAYERS)

    assert buffers(LAYERS) == {name: array.shape for name, array in made.items()}
    assert {name: float(name.endswith("running_var")) for name in made} == {
        name: float(np.unique(array).item()) for name, array in made.items()
    }


def test_arrays_depend_on_the_seed_and_on_their_name() -> None:
    one, same, other = (initial_parameters(LAYERS, seed)["conv1.conv.weight"] for seed in (1, 1, 2))
    made = initial_parameters(LAYERS, 1)

    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    first, second = (made[f"stage1.unit{unit}.expand.conv.weight"] for unit in (1, 2))
    assert not np.array_equal(first, second)


@given(first=st.integers(0, 20_000), count=st.integers(1, 9_000))
def test_a_rank_makes_its_own_rows_of_the_same_classifier(first: int, count: int) -> None:
    """8192 rows are one block of the random stream; a share may begin and end inside one."""
    whole = initial_classifier(0, 29_000, 2, 0.01, seed=5)

    np.testing.assert_array_equal(
        whole[first : first + count], initial_classifier(first, first + count, 2, 0.01, 5)
    )


def test_the_classifier_is_normal_with_the_given_deviation() -> None:
    made = initial_classifier(0, 1000, 128, 0.01, seed=0)

    assert (np.float32, (1000, 128)) == (made.dtype, made.shape)
    assert 0.01 == pytest.approx(made.std(), rel=0.02)
