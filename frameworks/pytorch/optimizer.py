"""SGD as the case defines it, on torch.optim.SGD.

The definition keeps the learning rate inside the momentum buffer, v = momentum v - rate g and w = w + v;
torch keeps it outside, b = momentum b + g and w = w - rate b. With v = -rate b the two are one, but when the
rate changes, torch's buffers have to be measured in the new rate.
"""

from typing import Dict, List

import torch

from frameworks.common.case import Optimizer


class CaseSGD:
    """SGD with momentum and weight decay; `kinds` says of each parameter which kind it is."""

    def __init__(
        self, parameters: Dict[str, torch.nn.Parameter], kinds: Dict[str, str], optimizer: Optimizer
    ) -> None:
        self._decoupled = optimizer.decay == "decoupled"
        self._decay = optimizer.weight_decay
        coupled_decay = 0.0 if self._decoupled else optimizer.weight_decay
        self._decaying = [p for name, p in parameters.items() if kinds[name] not in optimizer.no_decay]
        spared = [p for name, p in parameters.items() if kinds[name] in optimizer.no_decay]
        groups = [
            {"params": self._decaying, "weight_decay": coupled_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        self._sgd = torch.optim.SGD(
            [group for group in groups if group["params"]], lr=1.0, momentum=optimizer.momentum, fused=True
        )

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self._sgd.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update every parameter by its gradient."""
        self._set_rate(rate)
        if self._decoupled and self._decay:
            # Shrinking w first is the same sum: without weight decay the momentum step does not read w.
            torch._foreach_mul_(self._decaying, 1 - rate * self._decay)
        self._sgd.step()

    def _set_rate(self, rate: float) -> None:
        for group in self._sgd.param_groups:
            if group["lr"] != rate:
                buffers = _momentum_buffers(self._sgd, group["params"])
                if buffers:
                    torch._foreach_mul_(buffers, group["lr"] / rate)
                group["lr"] = rate


def _momentum_buffers(sgd: torch.optim.SGD, parameters: List[torch.nn.Parameter]) -> List[torch.Tensor]:
    found = (sgd.state[parameter].get("momentum_buffer") for parameter in parameters)
    return [buffer for buffer in found if buffer is not None]
