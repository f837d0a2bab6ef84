"""What a case costs by arithmetic: parameters, multiply-accumulates, training FLOPs per sample.

A multiply-accumulate (MAC) is 2 FLOPs; training is counted as 3 forward passes (forward, gradient of the
input, gradient of the weights), as in Kaplan et al. (arXiv:2001.08361), section 2.1. Norms, activations and
the optimizer are not counted.
"""

import math
from typing import NamedTuple

from frameworks.common.case import Case
from frameworks.common.networks import Conv, Layers, Linear, layers_of, map_sides, parameters, walk
from frameworks.common.sampling import sample_sizes


class ModelCost(NamedTuple):
    """Counts of one model; `classifier_macs` are for the classes that an iteration uses."""

    network_parameters: int
    classifier_parameters: int
    network_macs_per_sample: int
    classifier_macs_per_sample: int
    training_flops_per_sample: int


def forward_macs(layers: Layers) -> int:
    """MACs of one forward pass of one image through `layers`."""
    sides, total = map_sides(layers), 0
    for layer in walk(layers):
        if isinstance(layer, Conv):
            inputs = layer.in_channels // layer.groups * layer.kernel**2
            total += sides[layer.name] ** 2 * layer.out_channels * inputs
        elif isinstance(layer, Linear):
            total += layer.in_features * layer.out_features
    return total


def classes_touched(case: Case) -> int:
    """Classes whose weights an iteration uses, over all devices; with Partial FC only the sampled ones."""
    if case.parallelism != "partial_fc":
        return case.num_classes
    return sum(sample_sizes(case))


def model_cost(case: Case) -> ModelCost:
    """The cost of a case's network and classifier."""
    layers = layers_of(case)
    network, classifier = forward_macs(layers), case.embedding_size * classes_touched(case)
    return ModelCost(
        network_parameters=sum(math.prod(spec.shape) for spec in parameters(layers)),
        classifier_parameters=case.embedding_size * case.num_classes,
        network_macs_per_sample=network,
        classifier_macs_per_sample=classifier,
        training_flops_per_sample=3 * 2 * (network + classifier),
    )
