"""SGD as the case defines it, with torch.optim.SGD.

The definition keeps the learning rate inside the momentum buffer: v = momentum v - rate g, w = w + v. Torch
keeps it outside: b = momentum b + g, w = w - rate b. With v = -rate b they are the same, but when the rate
changes, torch's buffers must be rescaled.
"""

from typing import Dict, List, Optional

import torch

from frameworks.common.case import Case, Optimizer
from frameworks.common.initial import CLASSIFIER
from frameworks.common.networks import layers_of, parameters
from frameworks.pytorch.precision import AgreedGradScaler


def make_optimizer(case: Case, trained: Dict[str, torch.nn.Parameter], scaler: AgreedGradScaler) -> "CaseSGD":
    """The case's optimizer of the arrays `trained`, given by the table's names."""
    kinds = {spec.name: spec.kind for spec in parameters(layers_of(case))}
    return CaseSGD(trained, {**kinds, CLASSIFIER: "classifier"}, case.optimizer, scaler)


class CaseSGD:
    """SGD with momentum and weight decay; `kinds` has the kind of each parameter."""

    def __init__(
        self,
        trained: Dict[str, torch.nn.Parameter],
        kinds: Dict[str, str],
        optimizer: Optimizer,
        scaler: AgreedGradScaler,
    ) -> None:
        self._scaler = scaler
        self._decay = optimizer.weight_decay if optimizer.decay == "decoupled" else 0.0
        coupled_decay = 0.0 if optimizer.decay == "decoupled" else optimizer.weight_decay
        self._decaying = [p for name, p in trained.items() if kinds[name] not in optimizer.no_decay]
        spared = [p for name, p in trained.items() if kinds[name] in optimizer.no_decay]
        groups = [
            {"params": self._decaying, "weight_decay": coupled_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        self._sgd = torch.optim.SGD(
            [group for group in groups if group["params"]], lr=1.0, momentum=optimizer.momentum, fused=True
        )
        self._momenta: List[torch.Tensor] = []
        if optimizer.momentum:
            # Torch creates them uninitialised at the first step, and they stay so if loss scaling skips it.
            for parameter in trained.values():
                self._sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                self._momenta.append(self._sgd.state[parameter]["momentum_buffer"])

    def momentum(self, parameter: torch.nn.Parameter) -> Optional[torch.Tensor]:
        """Torch's buffer for a parameter, of its shape; None without momentum."""
        return self._sgd.state[parameter].get("momentum_buffer")

    def keep_in_rate(self, momentum: torch.Tensor) -> None:
        """Rescale this buffer, which is kept outside the optimizer, with the others."""
        self._momenta.append(momentum)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self._sgd.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update every parameter by its gradient; with loss scaling, none if a gradient overflowed."""
        self._set_rate(rate)
        self._scaler.unscale_(self._sgd)
        if self._decay:
            # Shrinking w first gives the same sum: without weight decay the momentum step does not read w.
            torch._foreach_mul_(self._decaying, self._kept(rate * self._decay))
        self._scaler.step(self._sgd)
        self._scaler.update()

    def _kept(self, share: float) -> "float | torch.Tensor":
        """The share of a weight that decoupled decay leaves; all of it in a skipped step."""
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
