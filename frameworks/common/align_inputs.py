"""Make the inputs of an alignment: `python -m frameworks.common.align_inputs CASE_FILE INPUTS.npz STEPS`.

It needs only numpy. The weights are not initial weights but a probe: engines that compute the same function
in float32 stay together over some steps, and others differ at once. docs/alignment.md explains each choice.
"""

import sys
import zlib
from typing import Dict, List, Tuple

import numpy as np

from frameworks.common.case import Case, Rank, read_case
from frameworks.common.data import process_batches
from frameworks.common.initial import CLASSIFIER, initial_classifier
from frameworks.common.networks import BatchNorm, Layers, ParameterSpec, buffers, layers_of, parameters, walk

# Length of every convolution's weight as one vector. Its outputs then have small variances, so that the eps
# of the following BatchNorm matters, and one step of SGD changes it by a few percent of its length.
CONVOLUTION_LENGTH = 2.0
LINEAR_LENGTH = 1.0
# Scale of the map before the embedding layer. It brings the deviation that the last BatchNorm divides by near
# its eps; far above eps, a batch of two becomes +1 and -1 for any input, and its gradient is only rounding
# error.
LAST_MAP_SCALE = 0.005
# Near 1 on both sides: if rounding changes the sign of a value in one engine, gradients change little.
SLOPES = (0.8, 1.2)
GAMMAS = (0.5, 1.5)
BETA_STD = 0.1
# Small relative to the variance of a batch, which must be recoverable from their sum.
VARIANCES = (0.005, 0.015)


def align_inputs(case: Case, steps: int) -> Dict[str, np.ndarray]:
    """The arrays of INPUTS.npz; `layout/names` and `layout/kinds` list all arrays in the network's order."""
    layers = layers_of(case)
    weights = probe_parameters(layers, case.seed)
    weights[CLASSIFIER] = initial_classifier(
        0, case.num_classes, case.embedding_size, case.classifier_init_std, case.seed
    )
    layout = _layout(layers)
    every = Rank(0, 0, 0, case.world_size, case.devices_per_node, case.world_size, "", 0, None)
    made = process_batches(case, every, steps)
    return {
        "layout/names": np.array([name for name, _ in layout]),
        "layout/kinds": np.array([kind for _, kind in layout]),
        **{"parameter/" + name: array for name, array in weights.items()},
        **{"buffer/" + name: array for name, array in probe_buffers(layers, case.seed).items()},
        "images": np.stack([images for images, _ in made]),
        "labels": np.stack([labels for _, labels in made]),
    }


def probe_parameters(layers: Layers, seed: int) -> Dict[str, np.ndarray]:
    """Every trained array of the network, none of them at 0 or 1: name -> float32 array of its shape."""
    last_norm = [layer.name for layer in walk(layers) if isinstance(layer, BatchNorm)][-2]
    made = {}
    for spec in parameters(layers):
        values = _probe(spec, np.random.default_rng([seed, 0xA119, zlib.crc32(spec.name.encode())]))
        if spec.name.startswith(last_norm + "."):
            values = values * LAST_MAP_SCALE
        made[spec.name] = values.astype(np.float32)
    return made


def _probe(spec: ParameterSpec, stream: np.random.Generator) -> np.ndarray:
    if spec.kind in ("convolution", "linear"):
        values = stream.standard_normal(spec.shape)
        length = LINEAR_LENGTH if spec.kind == "linear" else CONVOLUTION_LENGTH
        return values * length / np.linalg.norm(values)
    if spec.kind == "prelu":
        return stream.uniform(*SLOPES, spec.shape)
    if spec.kind == "bias":
        return stream.normal(0, LAST_MAP_SCALE, spec.shape)
    if spec.name.endswith(".weight"):
        return stream.uniform(*GAMMAS, spec.shape)
    return stream.normal(0, BETA_STD, spec.shape)


def probe_buffers(layers: Layers, seed: int) -> Dict[str, np.ndarray]:
    """Running statistics other than 0 and 1, so that their momentum matters: name -> float32 [channels]."""
    made = {}
    for name, shape in buffers(layers).items():
        stream = np.random.default_rng([seed, 0xB0FF, zlib.crc32(name.encode())])
        means = name.endswith("running_mean")
        values = stream.normal(0, BETA_STD, shape) if means else stream.uniform(*VARIANCES, shape)
        made[name] = values.astype(np.float32)
    return made


def _layout(layers: Layers) -> List[Tuple[str, str]]:
    """Name and kind of every array: each layer's parameters, then its statistics; the classifier last."""
    kinds = {spec.name: spec.kind for spec in parameters(layers)}
    kinds.update(dict.fromkeys(buffers(layers), "statistic"))
    parts = ("weight", "bias", "running_mean", "running_var")
    names = [f"{layer.name}.{part}" for layer in walk(layers) for part in parts]
    return [*((name, kinds[name]) for name in names if name in kinds), (CLASSIFIER, "classifier")]


if __name__ == "__main__":
    np.savez(sys.argv[2], **align_inputs(read_case(sys.argv[1]), int(sys.argv[3])))
