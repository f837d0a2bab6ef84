"""Each part of a step, bent in one contender's outputs, is named."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dlperf.align.diagnosis import culprit, first_to_differ
from dlperf.align.head import cosines, margin_loss
from dlperf.align.probe import LEARNING_RATE, SHRINKAGE
from dlperf.plan.case import Loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.align.arrays import Inputs
    from dlperf.align.diagnosis import Two

Arrays = dict[str, np.ndarray]


def batch_variance(made: Arrays, inputs: Inputs, norm: str) -> np.ndarray:
    """Of the first batch at the input of a BatchNorm, from what it keeps."""
    name = f"{norm}.running_var"
    return (made[f"first_step/buffer/{name}"].astype(np.float64) - 0.9 * inputs.initial(name)) / 0.1


def set_batch_variance(made: Arrays, inputs: Inputs, norm: str, variance: np.ndarray) -> None:
    name = f"{norm}.running_var"
    made[f"first_step/buffer/{name}"] = (0.9 * inputs.initial(name) + 0.1 * variance).astype(np.float32)


def test_equal_outputs_have_no_culprit(two: Callable[..., Two]) -> None:
    same = two(lambda _: None)

    assert (None, None) == (culprit(same), first_to_differ(same))


def test_noise_below_the_tolerance_has_no_culprit(two: Callable[..., Two]) -> None:
    def bend(made: Arrays) -> None:
        for key in made:
            made[key] = made[key] * (1 + 1e-6)

    assert culprit(two(bend)) is None


@pytest.mark.parametrize(("kind", "margin", "other"), [("cosface", "m3", 0.35), ("arcface", "m2", 0.45)])
def test_another_margin_is_named_with_its_value(
    two: Callable[..., Two], inputs: Inputs, kind: str, margin: str, other: float
) -> None:
    def bend(made: Arrays) -> None:
        cosine = cosines(made["embeddings"], inputs.initial("classifier.weight"))
        made["losses"][0] = margin_loss(cosine, inputs.labels, Loss(kind=kind, **{margin: other}))

    found = culprit(two(bend, kind))

    assert found is not None
    assert found.startswith(
        "the margin head: the embeddings agree and the first loss does not; mxnet computed"
    )
    assert found.endswith(f"as with {margin}={other:g} in place of {0.4 if margin == 'm3' else 0.5}")


def test_a_loss_that_no_margin_gives_is_the_heads_all_the_same(two: Callable[..., Two]) -> None:
    def bend(made: Arrays) -> None:
        made["losses"][0] *= 100

    assert re.fullmatch(
        r"the margin head: .*; mxnet computed \S+ where the definition gives \S+", culprit(two(bend)) or ""
    )


def test_another_eps_is_named_with_its_layer(two: Callable[..., Two], inputs: Inputs) -> None:
    """The next BatchNorm sees every channel's gain changed as the eps would change it."""
    norm, following = "stage1.unit2.expand.bn", "stage1.unit2.depthwise.bn"

    def bend(made: Arrays) -> None:
        before, after = (batch_variance(made, inputs, name) for name in (norm, following))
        set_batch_variance(made, inputs, following, after * (before + 1e-3) / (before + 2e-3))
        made["embeddings"] = made["embeddings"] * 1.01

    found = re.fullmatch(
        r"BatchNorm eps in (\S+): larger by about (\S+) in mxnet than in pytorch", culprit(two(bend)) or ""
    )

    assert found
    assert norm == found[1]
    assert pytest.approx(1e-3, rel=0.1) == float(found[2])


def test_another_eps_of_the_last_norm_shows_in_the_embeddings(
    two: Callable[..., Two], inputs: Inputs
) -> None:
    def bend(made: Arrays) -> None:
        before = batch_variance(made, inputs, "head.embedding_bn")
        made["embeddings"] = made["embeddings"] * np.sqrt(before / (before + 1e-3)).astype(np.float32)

    assert (culprit(two(bend)) or "").startswith("BatchNorm eps in head.embedding_bn: larger by about 0.00")


def test_a_forward_pass_that_parts_within_the_network_is_bisected(
    two: Callable[..., Two], inputs: Inputs
) -> None:
    norm = "stage2.unit3.depthwise.bn"

    def bend(made: Arrays) -> None:
        noise = np.random.default_rng(2).uniform(0.5, 2, len(batch_variance(made, inputs, norm)))
        set_batch_variance(made, inputs, norm, batch_variance(made, inputs, norm) * noise)
        made["embeddings"] = made["embeddings"] * 1.01

    assert (
        "the forward pass between the inputs of stage2.unit3.expand.bn and stage2.unit3.depthwise.bn: "
        "stage2.unit3.expand.bn or stage2.unit3.expand.prelu or stage2.unit3.depthwise.conv"
    ) == culprit(two(bend))


def test_a_forward_pass_that_starts_otherwise_is_blamed_on_the_images(
    two: Callable[..., Two], inputs: Inputs
) -> None:
    def bend(made: Arrays) -> None:
        for norm in inputs.norms:
            set_batch_variance(made, inputs, norm, batch_variance(made, inputs, norm) * 1.1)
        made["embeddings"] = made["embeddings"] * 1.01

    assert (
        "the forward pass at or before the input of conv1.bn: the images' scaling or the first layer"
    ) == culprit(two(bend))


def test_with_frozen_norms_of_other_numbers_of_devices_the_pass_is_named_and_no_layer(
    two: Callable[..., Two], inputs: Inputs
) -> None:
    """Their statistics are given ones: they tell nothing of the pass, and have other shapes."""

    def bend(made: Arrays) -> None:
        made["embeddings"] = made["embeddings"] * 1.01
        for name, kind in inputs.kinds.items():
            if kind == "statistic":
                for key in (f"first_step/buffer/{name}", f"buffer/{name}"):
                    made[key] = np.stack([made[key]] * 2)

    bent = two(bend)
    case = bent.case.model_copy(
        update={"workload": bent.case.workload.model_copy(update={"batch_norm": "frozen"})}
    )

    assert "the forward pass; where it parts cannot be told, as BatchNorm is frozen" == culprit(
        replace(bent, case=case)
    )


def test_a_loss_over_sampled_classes_is_no_other_margins(two: Callable[..., Two]) -> None:
    def bend(made: Arrays) -> None:
        made["losses"][0] *= 1.01

    bent = two(bend)
    case = bent.case.model_copy(update={"parallelism": "partial_fc", "sample_ratio": 0.1})

    assert "the margin head: the embeddings agree and the first loss does not" == culprit(
        replace(bent, case=case)
    )


def test_wrong_gradients_of_one_kind_are_named(two: Callable[..., Two], inputs: Inputs) -> None:
    """As where an operator multiplies the slope's gradient by the slope."""

    def bend(made: Arrays) -> None:
        for name, kind in inputs.kinds.items():
            if kind == "prelu":
                made[f"gradient_norm/{name}"] = made[f"gradient_norm/{name}"] * 0.9

    assert (
        "the gradient of PReLU slopes (first in the backward pass: conv3.prelu.weight); "
        "the forward pass agrees"
    ) == culprit(two(bend))


def test_wrong_gradients_of_all_kinds_are_named_by_where_they_begin(
    two: Callable[..., Two], inputs: Inputs
) -> None:
    before = list(inputs.parameters)[: inputs.parameters.index("conv3.prelu.weight")]

    def bend(made: Arrays) -> None:
        for name in before:
            made[f"gradient_norm/{name}"] = made[f"gradient_norm/{name}"] * 1.5

    assert "the backward pass from conv3.bn.bias on; the forward pass agrees" == culprit(two(bend))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bias", "the linear layer's bias"),
        ("prelu", "PReLU slopes"),
        ("batch_norm", "BatchNorm gamma and beta"),
    ],
)
def test_weight_decay_that_one_kind_lacks_is_named(
    two: Callable[..., Two], inputs: Inputs, kind: str, words: str
) -> None:
    def bend(made: Arrays) -> None:
        for name, found in inputs.kinds.items():
            if found == kind:
                key = f"first_step/parameter/{name}"
                made[key] = made[key] + np.float32(SHRINKAGE) * inputs.initial(name)

    bent = two(bend)

    assert (
        f"weight decay of {words}: pytorch decays them more than mxnet by 1 times the defined decay"
        == culprit(bent)
    )
    assert next(name for name, found in inputs.kinds.items() if found == kind) == first_to_differ(bent)


def test_another_first_update_is_named_by_kind(two: Callable[..., Two]) -> None:
    def bend(made: Arrays) -> None:
        key = "first_step/parameter/conv1.conv.weight"
        made[key] = made[key] + np.float32(0.01) * np.random.default_rng(3).random(
            made[key].shape, np.float32
        )

    assert (
        "the first update of convolution weights (first: conv1.conv.weight); the gradients agree"
    ) == culprit(two(bend))


def test_statistics_of_another_convention_are_named(two: Callable[..., Two], inputs: Inputs) -> None:
    """As where n - 1 stands in the denominator of the variance."""

    def bend(made: Arrays) -> None:
        variance = batch_variance(made, inputs, "conv1.bn")
        set_batch_variance(made, inputs, "conv1.bn", variance * 1.1)

    bent = two(bend)

    assert "the update of BatchNorm's running_var; all else of the first step agrees" == culprit(bent)
    assert "conv1.bn.running_var" == first_to_differ(bent)


def test_a_second_step_that_differs_is_blamed_on_what_only_later_steps_have(two: Callable[..., Two]) -> None:
    def bend(made: Arrays) -> None:
        made["losses"][2:] *= 1.05
        made["parameter/conv1.conv.weight"] = made["parameter/conv1.conv.weight"] * 1.05

    bent = two(bend)

    assert (
        "a later update: momentum, or weight decay coupled against decoupled (from the loss of step 3 on); "
        "the first step agrees"
    ) == culprit(bent)
    assert "conv1.conv.weight" == first_to_differ(bent)


def test_losses_that_part_behind_the_rates_change_are_blamed_on_it(two: Callable[..., Two]) -> None:
    """The rate changes at iteration 3 (the fourth); its update shows in the loss of iteration 4."""

    def bend(made: Arrays) -> None:
        made["losses"][4:] *= 1.05

    assert "the learning rate's change at iteration 3: the losses before it agree" == culprit(two(bend))


def test_the_probe_shrinks_by_a_thousandth_a_step(two: Callable[..., Two]) -> None:
    optimizer = two(lambda _: None).case.workload.optimizer

    assert pytest.approx(1e-3) == LEARNING_RATE * optimizer.weight_decay
