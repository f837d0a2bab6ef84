"""What fp32, fp16 and bf16 mean: which products are rounded, and how gradients are scaled."""

from typing import ContextManager, Optional

import torch

from frameworks.common.case import Case
from frameworks.pytorch.parallel import Ranks


def half_type(case: Case) -> Optional[torch.dtype]:
    """The type of the network's products under automatic mixed precision; None in fp32."""
    return {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[case.precision]


def mixed_precision(device: torch.device, half: Optional[torch.dtype]) -> ContextManager[None]:
    """Torch's own choice of what is computed in `half`; with None nothing changes."""
    return torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None)


def set_fp32_precision(*, tf32: bool) -> None:
    """Compute float32 products in float32, or on CUDA in TF32.

    By the older of torch's two sets of names: after the newer one (`fp32_precision`) reading the older one
    raises, and torch.compile reads both.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


class AgreedGradScaler(torch.amp.GradScaler):
    """Dynamic loss scaling whose ranks skip a step together, also where one alone overflowed.

    Torch's own ShardedGradScaler adds the findings up, and fused optimizers skip for 1 alone: where two ranks
    overflow it steps.
    """

    def __init__(self, device: torch.device, ranks: Ranks, *, enabled: bool) -> None:
        super().__init__(device.type, enabled=enabled)
        self._ranks = ranks

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale and look for what is not finite, in every rank."""
        super().unscale_(optimizer)
        if self.is_enabled():
            self._ranks.maximum_(self.overflowed(optimizer))

    def overflowed(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Behind `unscale_`: float32 [1] on the device, 1 where the step is to be skipped."""
        (found,) = self._found_inf_per_device(optimizer).values()
        return found


def make_scaler(case: Case, device: torch.device, ranks: Ranks) -> AgreedGradScaler:
    """Scaling for fp16; for fp32 and bf16, which reach as far as float32, one that does nothing."""
    return AgreedGradScaler(device, ranks, enabled=case.precision == "fp16")
