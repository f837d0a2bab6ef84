"""SGD as the case defines it, on torch.optim.SGD.

The definition keeps the learning rate inside the momentum buffer, v = momentum v - rate g and w = w + v;
torch keeps it outside, b = momentum b + g and w = w - rate b. With v = -rate b the two are one, but when the
rate changes, torch's buffers have to be measured in the new rate.
"""

from typing import Dict, List, Optional

import torch

from frameworks.common.case import Optimizer
from frameworks.pytorch.precision import AgreedGradScaler


class CaseSGD:
    """SGD with momentum and weight decay; `kinds` says of each parameter which kind it is."""

    def __init__(
        self,
        parameters: Dict[str, torch.nn.Parameter],
        kinds: Dict[str, str],
        optimizer: Optimizer,
        scaler: AgreedGradScaler,
    ) -> None:
        self._scaler = scaler
        self._decay = optimizer.weight_decay if optimizer.decay == "decoupled" else 0.0
        coupled_decay = 0.0 if optimizer.decay == "decoupled" else optimizer.weight_decay
        self._decaying = [p for name, p in parameters.items() if kinds[name] not in optimizer.no_decay]
        spared = [p for name, p in parameters.items() if kinds[name] in optimizer.no_decay]
        groups = [
            {"params": self._decaying, "weight_decay": coupled_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        self._sgd = torch.optim.SGD(
            [group for group in groups if group["params"]], lr=1.0, momentum=optimizer.momentum, fused=True
        )
        self._momenta: List[torch.Tensor] = []
        if optimizer.momentum:
            # Torch makes them at the first step, of whatever is in memory, and where loss scaling skips that
            # step they stay so.
            for parameter in parameters.values():
                self._sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                self._momenta.append(self._sgd.state[parameter]["momentum_buffer"])

    def momentum(self, parameter: torch.nn.Parameter) -> Optional[torch.Tensor]:
        """Torch's buffer of a parameter, of its shape; None without momentum."""
        return self._sgd.state[parameter].get("momentum_buffer")

    def keep_in_rate(self, momentum: torch.Tensor) -> None:
        """Measure a buffer that rests outside of the optimizer in the rate of the others, too."""
        self._momenta.append(momentum)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self._sgd.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update every parameter by its gradient; with loss scaling none where a gradient overflowed."""
        self._set_rate(rate)
        self._scaler.unscale_(self._sgd)
        if self._decay:
            # Shrinking w first is the same sum: without weight decay the momentum step does not read w.
            torch._foreach_mul_(self._decaying, self._kept(rate * self._decay))
        self._scaler.step(self._sgd)
        self._scaler.update()

    def _kept(self, share: float) -> "float | torch.Tensor":
        """What decoupled decay leaves of a weight; all of it in a step that is skipped."""
        if not self._scaler.is_enabled():
            return 1 - share
        return 1 - share * (1 - self._scaler.overflowed(self._sgd)).squeeze()

    def _set_rate(self, rate: float) -> None:
        before = self._sgd.param_groups[0]["lr"]
        if rate == before:
            return
        if self._momenta:
            torch._foreach_mul_(self._momenta, before / rate)
        for group in self._sgd.param_groups:
            group["lr"] = rate
