"""SGD as the case defines it: v = momentum v - rate gradient, w = w + v."""

from typing import Dict, NamedTuple

from jax import Array

from frameworks.common.case import Case, Optimizer
from frameworks.common.initial import CLASSIFIER
from frameworks.common.networks import layers_of, parameters
from frameworks.jax.network import Arrays


def make_optimizer(case: Case) -> "CaseSGD":
    """The case's optimizer."""
    kinds = {spec.name: spec.kind for spec in parameters(layers_of(case))}
    return CaseSGD({**kinds, CLASSIFIER: "classifier"}, case.optimizer)


class Updated(NamedTuple):
    """Parameters and their momentum buffers, by name; without momentum there are none."""

    parameters: Arrays
    momenta: Arrays


class CaseSGD:
    """SGD with momentum and weight decay; `kinds` has the kind of each parameter."""

    def __init__(self, kinds: Dict[str, str], optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._decays = {
            name: 0.0 if kind in optimizer.no_decay else optimizer.weight_decay
            for name, kind in kinds.items()
        }

    def update(self, parameters: Arrays, momenta: Arrays, gradients: Arrays, rate: Array) -> Updated:
        """Every parameter after its step."""
        made = Updated({}, {})
        for name, before in parameters.items():
            decay = rate * self._decays[name] * before
            step = -rate * gradients[name]
            if self._optimizer.decay == "coupled":
                step = step - decay
            if self._optimizer.momentum:
                step = made.momenta[name] = self._optimizer.momentum * momenta[name] + step
            if self._optimizer.decay == "decoupled":
                step = step - decay
            made.parameters[name] = before + step
        return made
