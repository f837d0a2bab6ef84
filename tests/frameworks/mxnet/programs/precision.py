"""CASE_FILE, OUTPUTS.npz: loss scales on a float32 network, and updates of float16 weights.

A float16 network is not tested: MXNet has no float16 products on the CPU.
"""

from __future__ import annotations

import sys

import mxnet as mx
import numpy as np

from frameworks.common.case import Case, Optimizer, rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.mxnet.optimizer import make_optimizer
from frameworks.mxnet.precision import DynamicLossScale, LossScale, make_scaler
from frameworks.mxnet.train import MXNetTrainer, make_trainer

RATE, STEPS = 0.5, 3


def scaled_steps(case: Case, scale: LossScale | DynamicLossScale) -> dict[str, np.ndarray]:
    trainer = make_trainer(case, rank_from_environment())
    trainer._scaler = scale
    (batch,) = batches(case, 0, 1)
    before = _parameters(trainer)
    factors = []
    for iteration in range(2):
        factors.append(scale.factor)
        trainer.step(batch, iteration).wait()
    moved = {name: array - before[name] for name, array in _parameters(trainer).items()}
    return {**moved, "factors": np.array([*factors, scale.factor])}


def _parameters(trainer: MXNetTrainer) -> dict[str, np.ndarray]:
    named = {name: parameter.data().asnumpy() for name, parameter in trainer.trained.items()}
    if trainer.head is not None:
        named["classifier.weight"] = trainer.head.shards[0].weight.asnumpy()
    return named


def overflowing() -> DynamicLossScale:
    """A scale at which every float32 gradient overflows; the next one is half as large."""
    scale = DynamicLossScale()
    scale._scaler._next_loss_scale = 2.0**140
    return scale


def half_updates(optimizer: Optimizer) -> dict[str, np.ndarray]:
    """Three steps of an optimizer on a float16 weight: gradients, the weight, and its float32 copy."""
    made = make_optimizer(optimizer)
    made.set_learning_rate(RATE)
    random = np.random.default_rng(1)
    weight = mx.nd.array(random.standard_normal((4, 8)), dtype="float16")
    state = made.create_state_multi_precision(0, weight)
    found = {"first": weight.asnumpy()}
    for step in range(STEPS):
        gradient = mx.nd.array(random.standard_normal((4, 8)), dtype="float16")
        made.update_multi_precision([0], [weight], [gradient], [state])
        found[f"{step}/gradient"] = gradient.asnumpy()
        found[f"{step}/weight"], found[f"{step}/master"] = weight.asnumpy(), state[1].asnumpy()
    return found


def main() -> None:
    case = read_case(sys.argv[1])
    results = {}
    for parallelism in ("data", "model"):
        of_case = case._replace(parallelism=parallelism)
        scales = {
            "plain": LossScale(1.0),
            "static": LossScale(512.0),
            "dynamic": DynamicLossScale(),
            "overflow": overflowing(),
        }
        for name, scale in scales.items():
            found = scaled_steps(of_case, scale)
            results.update({f"{parallelism}/{name}/{key}": array for key, array in found.items()})
    for decay in ("coupled", "decoupled"):
        found = half_updates(case.optimizer._replace(decay=decay, weight_decay=0.1))
        results.update({f"half/{decay}/{key}": array for key, array in found.items()})
    half = case._replace(precision="fp16")
    chosen = [make_scaler(half), make_scaler(half._replace(options={"loss_scale": 128.0})), make_scaler(case)]
    results["chosen"] = np.array([f"{type(scale).__name__} {scale.factor}" for scale in chosen])
    np.savez(sys.argv[2], **results)


main()
