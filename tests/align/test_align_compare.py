"""Each part of a step, bent in one participant's outputs, is found at its stage and at its first array."""

from collections.abc import Callable

import numpy as np
import pytest

from dlperf.align.arrays import Inputs, Outputs
from dlperf.align.certificate import Pair
from dlperf.align.compare import cosines, defined_loss, margin_loss
from dlperf.align.participants import LEARNING_RATE, SHRINKAGE
from dlperf.plan.case import Case, Loss

Arrays = dict[str, np.ndarray]


def differing(pair: Pair) -> dict[str, str]:
    """The first array of each stage that differs."""
    return {stage.stage: stage.first for stage in pair.stages if stage.first is not None}


def change_batch_variance(made: Arrays, inputs: Inputs, norm: str, factor: float | np.ndarray) -> None:
    """Multiply the variance of the first batch at the input of a BatchNorm, in what it keeps of it."""
    name = f"{norm}.running_var"
    before = 0.9 * inputs.initial(name)
    made[f"first_step/buffer/{name}"] = (
        before + (made[f"first_step/buffer/{name}"].astype(np.float64) - before) * factor
    ).astype(np.float32)


def test_equal_outputs_agree_at_every_stage(bent: Callable[..., Pair]) -> None:
    pair = bent(lambda _: None)

    assert ({}, True, None) == (differing(pair), pair.passed, pair.first_to_differ)


def test_noise_below_the_tolerance_passes(bent: Callable[..., Pair]) -> None:
    def bend(made: Arrays) -> None:
        for key in made:
            made[key] = made[key] * (1 + 1e-6)

    assert bent(bend).passed


def test_a_forward_pass_is_followed_to_the_first_input_that_differs(
    bent: Callable[..., Pair], inputs: Inputs
) -> None:
    norm = "stage2.unit3.depthwise.bn"

    def bend(made: Arrays) -> None:
        noise = np.random.default_rng(2).uniform(0.5, 2, len(inputs.initial(f"{norm}.running_var")))
        change_batch_variance(made, inputs, norm, noise)
        made["embeddings"] = made["embeddings"] * 1.01

    pair = bent(bend)

    assert f"{norm}.running_var" == pair.first_to_differ
    assert pytest.approx(0.01, rel=1e-3) == pair.at("embeddings").difference
    assert pair.hint is None


def test_embeddings_that_part_behind_the_last_norm_are_themselves_the_first(
    bent: Callable[..., Pair],
) -> None:
    def bend(made: Arrays) -> None:
        made["embeddings"] = made["embeddings"] * 1.01

    assert {"embeddings": "embeddings"} == differing(bent(bend))


def test_frozen_norms_of_different_numbers_of_devices_show_nothing_of_the_pass(
    bent: Callable[..., Pair], inputs: Inputs
) -> None:
    """Their statistics are given, and have different shapes."""

    def bend(made: Arrays) -> None:
        made["embeddings"] = made["embeddings"] * 1.01
        for name in inputs.statistics:
            for key in (f"first_step/buffer/{name}", f"buffer/{name}"):
                made[key] = np.stack([made[key]] * 2)

    assert {"embeddings": "embeddings"} == differing(bent(bend, frozen=True))


def test_a_loss_differs_alone(bent: Callable[..., Pair]) -> None:
    def bend(made: Arrays) -> None:
        made["losses"][0] *= 1.01

    assert {"loss": "loss of step 1"} == differing(bent(bend))


@pytest.mark.parametrize(
    ("loss", "same"),
    [(Loss(kind="arcface", m2=0.5), True), (Loss(kind="cosface", m3=0.4), False)],
)
def test_the_defined_loss_is_that_of_the_participants_own_embeddings(
    arrays: Callable[..., Arrays],
    outputs: Callable[[Arrays], Outputs],
    inputs: Inputs,
    case: Case,
    loss: Loss,
    *,
    same: bool,
) -> None:
    made = arrays()
    made["embeddings"] = made["embeddings"] + np.float32(0.1)
    cosine = cosines(made["embeddings"], inputs.initial("classifier.weight"))
    computed = margin_loss(cosine, inputs.labels, loss)

    defined = defined_loss(outputs(made), inputs, case)

    assert same is (pytest.approx(computed) == defined)


def test_of_a_sample_of_the_classes_the_defined_loss_is_not_known(
    arrays: Callable[..., Arrays], outputs: Callable[[Arrays], Outputs], inputs: Inputs, case: Case
) -> None:
    sampled = case.model_copy(update={"parallelism": "partial_fc", "sample_ratio": 0.1})

    assert defined_loss(outputs(arrays()), inputs, sampled) is None


def test_wrong_gradients_are_followed_from_the_loss_back(bent: Callable[..., Pair], inputs: Inputs) -> None:
    """As where an operator multiplies the slope's gradient by the slope."""

    def bend(made: Arrays) -> None:
        for name, kind in inputs.kinds.items():
            if kind == "prelu":
                made[f"gradient_norm/{name}"] = made[f"gradient_norm/{name}"] * 0.9

    gradients = bent(bend).at("gradients")

    slopes = sum(kind == "prelu" for kind in inputs.kinds.values())
    assert ("conv3.prelu.weight", ("PReLU slopes",)) == (gradients.first, gradients.kinds)
    assert (slopes, len(inputs.parameters)) == (gradients.beyond, gradients.arrays)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bias", "the linear layer's bias"),
        ("prelu", "PReLU slopes"),
        ("batch_norm", "BatchNorm gamma and beta"),
    ],
)
def test_weight_decay_that_one_kind_lacks_explains_every_difference(
    bent: Callable[..., Pair], inputs: Inputs, kind: str, words: str
) -> None:
    def bend(made: Arrays) -> None:
        for name, found in inputs.kinds.items():
            if found == kind:
                key = f"first_step/parameter/{name}"
                made[key] = made[key] + np.float32(SHRINKAGE) * inputs.initial(name)

    pair = bent(bend)

    assert {"step": next(name for name, found in inputs.kinds.items() if found == kind)} == differing(pair)
    assert (
        f"weight decay explains it: pytorch decays {words} more than mxnet, by 1 times the defined decay"
    ) == pair.hint


@pytest.mark.parametrize(
    "other", ["parameter/head.linear.weight", "parameter/conv2.bn.weight", "buffer/conv2.bn.running_mean"]
)
def test_weight_decay_that_leaves_one_difference_unexplained_is_no_hint(
    bent: Callable[..., Pair], inputs: Inputs, other: str
) -> None:
    """Another parameter or statistic differs too, or one of the same kind by another amount."""

    def bend(made: Arrays) -> None:
        for name, kind in inputs.kinds.items():
            if kind == "batch_norm":
                key = f"first_step/parameter/{name}"
                made[key] = made[key] + np.float32(SHRINKAGE) * inputs.initial(name)
        made[f"first_step/{other}"] = made[f"first_step/{other}"] * np.float32(1.001)

    pair = bent(bend)

    assert "step" in differing(pair)
    assert pair.hint is None


def test_another_momentum_of_running_statistics_explains_every_difference(
    bent: Callable[..., Pair], inputs: Inputs
) -> None:
    def bend(made: Arrays) -> None:
        for name in ("conv2.bn.running_mean", "conv2.bn.running_var"):
            key, before = f"first_step/buffer/{name}", inputs.initial(name)
            made[key] = before + 2 * (made[key] - before)

    pair = bent(bend)

    assert {"statistics": "conv2.bn.running_mean"} == differing(pair)
    assert (
        "another momentum explains it: these statistics move 2 times as far in mxnet as in pytorch"
    ) == pair.hint


def test_statistics_of_another_convention_have_no_hint(bent: Callable[..., Pair], inputs: Inputs) -> None:
    """As where n - 1 stands in the denominator of the variance."""
    pair = bent(lambda made: change_batch_variance(made, inputs, "conv1.bn", 1.1))

    assert ({"statistics": "conv1.bn.running_var"}, None) == (differing(pair), pair.hint)


def test_later_steps_begin_with_the_first_loss_that_differs(bent: Callable[..., Pair]) -> None:
    def bend(made: Arrays) -> None:
        made["losses"][2:] *= 1.05
        made["parameter/conv1.conv.weight"] = made["parameter/conv1.conv.weight"] * 1.05

    pair = bent(bend)

    assert {"later steps": "loss of step 3"} == differing(pair)
    assert 4 == pair.at("later steps").beyond


def test_the_probe_shrinks_by_a_thousandth_per_step(case: Case) -> None:
    assert pytest.approx(1e-3) == LEARNING_RATE * case.workload.optimizer.weight_decay
