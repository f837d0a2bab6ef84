"""The files of several processes read as one: what is split comes whole, what is copied must be the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlperf.align.arrays import CLASSIFIER, Flaw, Inputs, Outputs
from dlperf.align.compare import difference

Arrays = dict[str, np.ndarray]
STEPS = 5


@pytest.fixture
def two_ranks(inputs: Inputs, arrays: Callable[..., Arrays], tmp_path: Path) -> Callable[..., Outputs]:
    """Two processes' files; `bend` changes the second's. With `split` each has half of the classifier."""

    def read(bend: Callable[[Arrays], None] = lambda _: None, *, split: bool = False) -> Outputs:
        paths = []
        for rank in range(2):
            made = arrays()
            made["embeddings"] = np.array_split(made["embeddings"], 2)[rank]
            for prefix in ("", "first_step/"):
                key = f"{prefix}parameter/{CLASSIFIER}"
                made[key] = np.array_split(made[key], 2)[rank] if split else made[key]
            made[f"gradient_norm/{CLASSIFIER}"] = np.array(3.0 + rank)
            for key in [key for key in made if "buffer/" in key]:
                made[key] = made[key] + rank
            if rank == 1:
                bend(made)
            paths.append(tmp_path / f"{rank}.npz")
            np.savez(paths[-1], **made)
        return Outputs(paths, inputs, steps=STEPS)

    return read


def test_embeddings_stand_rank_after_rank_and_statistics_are_each_devices_own(
    two_ranks: Callable[..., Outputs], arrays: Callable[..., Arrays]
) -> None:
    one, outputs = arrays(), two_ranks()
    norm = "conv1.bn.running_mean"

    np.testing.assert_array_equal(one["embeddings"], outputs.embeddings)
    np.testing.assert_array_equal(
        np.stack([one[f"buffer/{norm}"], one[f"buffer/{norm}"] + 1]), outputs.after_all_steps(norm)
    )


def test_a_split_classifier_comes_whole_with_the_norm_of_all_its_rows(
    two_ranks: Callable[..., Outputs], arrays: Callable[..., Arrays]
) -> None:
    outputs = two_ranks(split=True)

    np.testing.assert_array_equal(
        arrays()[f"first_step/parameter/{CLASSIFIER}"], outputs.after_first_step(CLASSIFIER)
    )
    assert 5.0 == outputs.gradient_norms[CLASSIFIER]


def test_a_copied_classifier_is_the_first_ranks(two_ranks: Callable[..., Outputs]) -> None:
    assert 3.0 == two_ranks().gradient_norms[CLASSIFIER]


def test_copies_that_drift_apart_are_a_flaw(two_ranks: Callable[..., Outputs]) -> None:
    def bend(made: Arrays) -> None:
        made["parameter/conv1.conv.weight"] *= 1.001

    with pytest.raises(Flaw, match=r"process 1's copy of parameter/conv1.conv.weight differs"):
        two_ranks(bend)


def test_ranks_that_print_different_losses_are_a_flaw(two_ranks: Callable[..., Outputs]) -> None:
    def bend(made: Arrays) -> None:
        made["losses"] = made["losses"] * 1.001

    with pytest.raises(Flaw, match="process 1 has the losses"):
        two_ranks(bend)


def test_a_copy_that_holds_nan_is_a_flaw(two_ranks: Callable[..., Outputs]) -> None:
    """The first process's copy is sound, and NaN is not greater than any tolerance."""

    def bend(made: Arrays) -> None:
        made["parameter/conv1.conv.weight"][0] = np.nan

    with pytest.raises(Flaw, match=r"process 1's copy of parameter/conv1.conv.weight differs"):
        two_ranks(bend)


@pytest.mark.parametrize(
    ("key", "other", "why"),
    [
        ("parameter/conv1.bn.weight", np.ones(1), r"process 1's copy of \S+ has shape \[1\]"),
        ("losses", np.ones(3), "it wrote 3 losses for 5 steps"),
        ("embeddings", np.ones((7, 128)), r"embeddings has shape \[9, 128\], expected \[4, 128\]"),
        ("gradient_norm/conv1.bn.bias", np.array(np.nan), "gradient_norm/conv1.bn.bias is nan"),
    ],
)
def test_what_no_engine_should_write_is_a_flaw_and_never_compared(
    two_ranks: Callable[..., Outputs], key: str, other: np.ndarray, why: str
) -> None:
    def bend(made: Arrays) -> None:
        made[key] = other

    with pytest.raises(Flaw, match=why):
        two_ranks(bend)


@pytest.mark.parametrize("key", ["embeddings", "gradient_norm/conv1.conv.weight"])
def test_values_that_are_not_finite_are_a_flaw_of_a_single_process_too(
    arrays: Callable[..., Arrays], outputs: Callable[[Arrays], Outputs], key: str
) -> None:
    made = arrays()
    made[key] = np.full_like(made[key], np.nan)

    with pytest.raises(Flaw, match=rf"{key} (holds values that are not finite|is nan)"):
        outputs(made)


def test_an_array_that_is_missing_or_unknown_is_a_flaw(
    arrays: Callable[..., Arrays], outputs: Callable[[Arrays], Outputs]
) -> None:
    made = arrays()
    del made["parameter/conv1.bn.weight"]
    with pytest.raises(Flaw, match=r"its outputs lack parameter/conv1.bn.weight"):
        outputs(made)

    with pytest.raises(Flaw, match=r"its outputs hold parameter/more, which the network does not have"):
        outputs({**arrays(), "parameter/more": np.ones(1)})


def test_a_file_that_holds_no_arrays_is_a_flaw(inputs: Inputs, tmp_path: Path) -> None:
    path = tmp_path / "outputs.npz"
    path.write_bytes(b"PK half written")

    with pytest.raises(Flaw, match=r"outputs.npz holds no arrays"):
        Outputs([path], inputs, steps=STEPS)


def test_statistics_of_different_numbers_of_devices_are_compared_all_with_all() -> None:
    two, four = np.ones((2, 3)), np.ones((4, 3))

    assert 0 == difference(two, four)
    four[3, 2] = 1.5
    assert 0.5 / 1.5 == pytest.approx(difference(two, four))
    assert 0.5 == pytest.approx(difference(four, np.ones(3)))
