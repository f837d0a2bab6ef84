"""What a device's memory holds during training, by arithmetic on the network's table.

Only the tensors of the training count. An engine's libraries, caches, workspaces and copies come on top, and
an engine that computes in place needs less. So this is a first guess, not a limit. Weights, gradients,
momentum and logits are float32 in every precision (fp16 and bf16 keep float32 masters, and the margin softmax
is computed in float32); activations have the size of the precision.

`python -m frameworks.common.memory` answers a JSON request on standard input:

    {"case": {...}, "search": {"axis": "num_classes", "granularity": 1000, "upper": 100000000},
     "budget": 2147483648}

with the parts of the case, and the largest value of the axis whose parts fit the budget:

    {"parts": [{"name": "activations", "bytes": 1, "formula": "..."}], "largest": 1000}

`search` and `budget` may be null; then `largest` is null, as it is if not even one step of the axis fits.
"""

import json
import math
import sys
from typing import Any, Dict, List, NamedTuple, Optional

from frameworks.common.case import Case, case_from_dict
from frameworks.common.margin import class_range
from frameworks.common.networks import (
    INPUT_SHAPE,
    BatchNorm,
    Conv,
    Layer,
    Layers,
    Linear,
    PReLU,
    Residual,
    buffers,
    layers_of,
    map_sides,
    parameters,
    walk,
)
from frameworks.common.sampling import sample_size

FLOAT32_BYTES = 4


class Part(NamedTuple):
    """Bytes of one kind of tensor on rank 0's device, and their formula."""

    name: str
    bytes: int
    formula: str


def memory_parts(case: Case) -> List[Part]:
    """The parts on the device of rank 0, which holds at least as many classes as any other."""
    layers = layers_of(case)
    network = FLOAT32_BYTES * sum(math.prod(spec.shape) for spec in parameters(layers))
    statistics = FLOAT32_BYTES * sum(math.prod(shape) for shape in buffers(layers).values())
    item = FLOAT32_BYTES if case.precision == "fp32" else 2
    B, E = case.batch_size_per_device, case.embedding_size
    held, touched = _rows(case)
    images = B if case.parallelism == "data" else case.global_batch_size
    return [
        Part("network weights", network + statistics, "4 (parameters + running statistics)"),
        Part("network gradients", network, "4 parameters"),
        Part("network momentum", network, "4 parameters"),
        Part("activations", item * B * outputs(layers), "item x batch x elements of every layer's output"),
        Part("images", FLOAT32_BYTES * B * math.prod(INPUT_SHAPE), "4 batch x 3 x 112 x 112"),
        Part("classifier weights", FLOAT32_BYTES * held * E, "4 classes of the device x embedding size"),
        Part("classifier momentum", FLOAT32_BYTES * held * E, "4 classes of the device x embedding size"),
        Part("classifier gradients", FLOAT32_BYTES * touched * E, "4 classes of a step x embedding size"),
        Part(
            "sampled rows",
            2 * FLOAT32_BYTES * touched * E if case.parallelism == "partial_fc" else 0,
            "4 sampled classes x embedding size, of weights and of momentum",
        ),
        Part(
            "logits",
            2 * FLOAT32_BYTES * images * touched,
            "4 images x classes of a step, values and gradients",
        ),
    ]


def _rows(case: Case) -> "tuple[int, int]":
    """How many classes rank 0 holds, and how many of them a step trains."""
    if case.parallelism == "data":
        return case.num_classes, case.num_classes
    first, last = class_range(case.num_classes, case.world_size, 0)
    held = last - first
    return held, sample_size(case, 0) if case.parallelism == "partial_fc" else held


def outputs(layers: Layers) -> int:
    """Elements of all layers' outputs for one image: what the backward pass needs of the forward pass."""
    sides = map_sides(layers)
    return sum(_width(layer) * sides[layer.name] ** 2 for layer in walk(layers)) + sum(
        _width(layer.body[-1]) * sides[layer.name] ** 2 for layer in layers if isinstance(layer, Residual)
    )


def _width(layer: Layer) -> int:
    """Channels of a layer's output; 0 if it has no output array of its own."""
    if isinstance(layer, Conv):
        return layer.out_channels
    if isinstance(layer, (BatchNorm, PReLU)):
        return layer.channels
    return layer.out_features if isinstance(layer, Linear) else 0


def largest_value(case: Case, axis: str, granularity: int, upper: int, budget: int) -> Optional[int]:
    """The largest multiple of the granularity up to `upper` whose parts fit the budget; None: none fits."""
    low, high = 0, upper // granularity + 1
    while high - low > 1:
        middle = (low + high) // 2
        tried = case._replace(**{axis: middle * granularity})
        if sum(part.bytes for part in memory_parts(tried)) <= budget:
            low = middle
        else:
            high = middle
    return low * granularity or None


def answer(request: Dict[str, Any]) -> Dict[str, Any]:
    """The answer to a request; KeyError names a missing field."""
    case, search, budget = case_from_dict(request["case"]), request["search"], request["budget"]
    largest = None
    if search is not None and budget is not None:
        largest = largest_value(case, search["axis"], search["granularity"], search["upper"], budget)
    return {"parts": [part._asdict() for part in memory_parts(case)], "largest": largest}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
