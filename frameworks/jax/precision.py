"""What fp32, fp16 and bf16 mean: what the network computes in, and how the loss is scaled."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from frameworks.common.case import Case
from frameworks.jax.network import Arrays

FIRST_SCALE = 65536.0  # of the loss, as torch's
_GROWTH_STEPS = 2000  # without an overflow, until the scale is doubled; likewise


def network_dtype(case: Case) -> Any:
    """The dtype of the network's maps; statistics, gamma and beta of BatchNorm stay float32."""
    return {"fp32": jnp.float32, "fp16": jnp.float16, "bf16": jnp.bfloat16}[case.precision]


def gradient_dtype(case: Case) -> Any:
    """What gradients travel in between ranks."""
    return jnp.dtype(case.gradient_dtype)


def loss_scale(case: Case) -> str:
    """What the loss is scaled by, for the log."""
    return "dynamic" if case.precision == "fp16" else "none"


def set_fp32_precision(*, tf32: bool) -> None:
    """Compute float32 products in float32 or, on CUDA, in TF32; left alone, XLA takes TF32 there."""
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")


class Scaling(NamedTuple):
    """The scale of the loss, float32, and how many steps it has been so without an overflow, int32."""

    scale: Array
    good_steps: Array


class LossScaler:
    """Dynamic loss scaling: a step whose gradients overflow is skipped and the scale halved.

    When not enabled, everything passes unchanged and unchecked.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled

    def unscaled(self, gradients: Arrays, scaling: Scaling) -> Arrays:
        """Gradients of the loss from those of the scaled loss."""
        if not self.enabled:
            return gradients
        return {name: gradient / scaling.scale for name, gradient in gradients.items()}

    def overflowed(self, gradients: Arrays) -> Array:
        """Whether a gradient of this rank is infinite or not a number: int32, 0 or 1."""
        finite = jnp.array([jnp.isfinite(gradient).all() for gradient in gradients.values()])
        return (~finite.all()).astype(jnp.int32)

    def after(self, scaling: Scaling, overflowed: Array) -> Scaling:
        """The scaling of the next step."""
        good_steps = jnp.where(overflowed, 0, scaling.good_steps + 1)
        grows = good_steps == _GROWTH_STEPS
        factor = jnp.where(overflowed, 0.5, jnp.where(grows, 2.0, 1.0))
        return Scaling(scaling.scale * factor, jnp.where(grows, 0, good_steps))


def make_scaler(case: Case) -> LossScaler:
    """Scaling for fp16. It does nothing in fp32, and in bf16, which has the range of float32."""
    return LossScaler(enabled=case.precision == "fp16")
