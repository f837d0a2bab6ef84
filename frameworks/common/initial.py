"""Initial parameters, the same in every framework: float32 arrays that numpy makes from the case's seed.

Each array has its own random stream, keyed by its name. The classifier has one stream per block of rows, so
that a rank can make its own share of the classes, and a row does not depend on the number of ranks.
"""

import zlib
from typing import Dict

import numpy as np

from frameworks.common.case import Case
from frameworks.common.networks import PRELU_INIT, Layers, ParameterSpec, buffers, layers_of, parameters

CLASSIFIER = "classifier.weight"
_ROWS_A_BLOCK = 8192


def _stream(seed: int, name: str, block: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), block])


def _initial(spec: ParameterSpec, seed: int) -> np.ndarray:
    if spec.kind in ("convolution", "linear"):
        # He et al. (arXiv:1502.01852); fan_out as MXNet's Xavier(gaussian, out, 2) counts it, groups ignored.
        fan_out = spec.shape[0] * int(np.prod(spec.shape[2:]))
        values = _stream(seed, spec.name).standard_normal(spec.shape, dtype=np.float32)
        return values * np.float32(np.sqrt(2.0 / fan_out))
    if spec.kind == "prelu":
        return np.full(spec.shape, PRELU_INIT, np.float32)
    gamma = spec.kind == "batch_norm" and spec.name.endswith(".weight")
    return np.ones(spec.shape, np.float32) if gamma else np.zeros(spec.shape, np.float32)


def initial_parameters(layers: Layers, seed: int) -> Dict[str, np.ndarray]:
    """Every trained array of the network: name -> float32 array of its shape."""
    return {spec.name: _initial(spec, seed) for spec in parameters(layers)}


def initial_buffers(layers: Layers) -> Dict[str, np.ndarray]:
    """Running means 0 and running variances 1: name -> float32 [channels]."""
    fill = {True: np.zeros, False: np.ones}
    return {name: fill[name.endswith("mean")](shape, np.float32) for name, shape in buffers(layers).items()}


def initial_classifier(first: int, last: int, embedding_size: int, std: float, seed: int) -> np.ndarray:
    """Rows first..last-1 of the class weights, float32 [last - first, embedding_size], normal(0, std)."""
    rows = np.empty((last - first, embedding_size), np.float32)
    for block in range(first // _ROWS_A_BLOCK, -(-last // _ROWS_A_BLOCK)):
        start = block * _ROWS_A_BLOCK
        stream = _stream(seed, CLASSIFIER, block)
        values = stream.standard_normal((_ROWS_A_BLOCK, embedding_size), dtype=np.float32)
        low, high = max(first, start), min(last, start + _ROWS_A_BLOCK)
        rows[low - first : high - first] = values[low - start : high - start]
    return rows * np.float32(std)


def initial_arrays(case: Case, held: range) -> Dict[str, np.ndarray]:
    """Every parameter and buffer by the table's name; the classifier has only the rows `held`."""
    layers = layers_of(case)
    std, size = case.classifier_init_std, case.embedding_size
    classifier = initial_classifier(held.start, held.stop, size, std, case.seed)
    network = {**initial_parameters(layers, case.seed), **initial_buffers(layers)}
    return {**network, CLASSIFIER: classifier}
