"""What fp32, fp16 and bf16 mean: what the network computes in, and how the loss is scaled."""

from typing import ContextManager, Optional

import torch

from frameworks.common.case import Case
from frameworks.pytorch.parallel import Ranks

FIRST_SCALE = 65536.0  # of the loss, torch's default


def network_dtype(case: Case) -> Optional[torch.dtype]:
    """What the network's products are computed in under mixed precision; None: as the weights."""
    return {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[case.precision]


def mixed_precision(device: torch.device, dtype: Optional[torch.dtype]) -> ContextManager[None]:
    """Let torch choose what is computed in `dtype`; None changes nothing."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def gradient_dtype(case: Case) -> Optional[torch.dtype]:
    """What gradients travel in between ranks; None: as the parameters, float32."""
    return None if case.gradient_dtype == "float32" else getattr(torch, case.gradient_dtype)


def loss_scale(case: Case) -> str:
    """What the loss is scaled by, for the log."""
    return "dynamic" if case.precision == "fp16" else "none"


def set_fp32_precision(*, tf32: bool) -> None:
    """Compute float32 products in float32 or, on CUDA, in TF32.

    Torch has two sets of names for this. We set the older one: once the newer one (`fp32_precision`) is set,
    reading the older raises, and torch.compile reads both.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


class AgreedGradScaler(torch.amp.GradScaler):
    """Dynamic loss scaling in which all ranks skip a step if the gradients of any rank overflowed.

    Torch's ShardedGradScaler adds up the ranks' flags, but fused optimizers skip only for a flag of exactly
    1: when two ranks overflow, it steps.
    """

    def __init__(
        self, device: torch.device, ranks: Ranks, *, first_scale: float = FIRST_SCALE, enabled: bool
    ) -> None:
        super().__init__(device.type, init_scale=first_scale, enabled=enabled)
        self._ranks = ranks

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale and look for infinities and NaNs in every rank."""
        super().unscale_(optimizer)
        if self.is_enabled():
            self._ranks.maximum_(self.overflowed(optimizer))

    def overflowed(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """After `unscale_`: float32 [1] on the device, 1 if the step must be skipped."""
        (found,) = self._found_inf_per_device(optimizer).values()
        return found


def make_scaler(
    case: Case, device: torch.device, ranks: Ranks, *, first_scale: float = FIRST_SCALE
) -> AgreedGradScaler:
    """Scaling for fp16. It does nothing in fp32, and in bf16, which has the range of float32."""
    return AgreedGradScaler(device, ranks, first_scale=first_scale, enabled=case.precision == "fp16")
