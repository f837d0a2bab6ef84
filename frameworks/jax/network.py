"""The backbone in JAX, built layer by layer from the table in `frameworks/common/networks.py`.

Maps are NHWC inside: XLA chooses layouts by itself, and on a CPU this order compiles faster. Weights
have the table's shapes. Layers hold no arrays: they are given them by name, in `Given`.
"""

import zlib
from typing import Any, Callable, Dict, Iterator, NamedTuple, Tuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from frameworks.common import networks

Arrays = Dict[str, Array]
Layer = Callable[[Array, "Given"], Array]


class Given(NamedTuple):
    """What a forward pass is given: parameters and running statistics, and dropout's key.

    BatchNorms leave their new statistics in `moved`.
    """

    parameters: Arrays
    statistics: Arrays
    key: Array
    moved: Arrays


def build_network(layers: networks.Layers, *, sums_depthwise: bool) -> Layer:
    """The network: [B, 112, 112, 3], scaled -> embeddings [B, embedding_size], in the dtype of the input.

    With `sums_depthwise` depthwise convolutions are written as sums of products.
    """
    made = [_layer(layer, sums_depthwise=sums_depthwise) for layer in layers]

    def network(x: Array, given: Given) -> Array:
        for layer in made:
            x = layer(x, given)
        return x

    return network


def named_arrays(parameters: Arrays, statistics: Arrays) -> Arrays:
    """Every trained array and running statistic by the table's name."""
    return {**parameters, **statistics}


class ResidualBlock:
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    def __init__(self, layer: networks.Residual, *, sums_depthwise: bool) -> None:
        self._body = build_network(layer.body, sums_depthwise=sums_depthwise)
        self._shortcut = build_network(layer.shortcut, sums_depthwise=sums_depthwise)

    def __call__(self, x: Array, given: Given) -> Array:
        """[B, H, W, C] in, the body's shape out."""
        return self._body(x, given) + self._shortcut(x, given)


def _layer(layer: networks.Layer, *, sums_depthwise: bool) -> Layer:
    if isinstance(layer, networks.Residual):
        return ResidualBlock(layer, sums_depthwise=sums_depthwise)
    if isinstance(layer, networks.Conv) and sums_depthwise and layer.groups > 1:
        return _DepthwiseSum(layer)
    return _MAKERS[type(layer)](layer)


class _Convolution:
    def __init__(self, layer: networks.Conv) -> None:
        self._layer = layer

    def __call__(self, x: Array, given: Given) -> Array:
        layer = self._layer
        weight = given.parameters[f"{layer.name}.weight"].astype(x.dtype)
        return lax.conv_general_dilated(
            x,
            weight,
            window_strides=(layer.stride, layer.stride),
            padding=[(layer.padding, layer.padding)] * 2,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=layer.groups,
        )


class _DepthwiseSum:
    """A depthwise convolution as the sum of the map's shifts, each times its element of the kernel.

    XLA on a CPU has no fast depthwise convolution: with it MobileFaceNet takes more than twice as long
    (docs/engines/jax.md).
    """

    def __init__(self, layer: networks.Conv) -> None:
        self._layer = layer

    def __call__(self, x: Array, given: Given) -> Array:
        weight = given.parameters[f"{self._layer.name}.weight"].astype(x.dtype)
        if x.shape[1] == self._layer.kernel and not self._layer.padding:
            return jnp.einsum("bhwc,chw->bc", x, weight[:, 0])[:, None, None, :]
        return sum(shift * weight[:, 0, row, column] for row, column, shift in self._shifts(x))

    def _shifts(self, x: Array) -> Iterator[Tuple[int, int, Array]]:
        kernel, stride, padding = self._layer.kernel, self._layer.stride, self._layer.padding
        side = (x.shape[1] + 2 * padding - kernel) // stride + 1
        reach = (side - 1) * stride + 1
        padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        for row in range(kernel):
            for column in range(kernel):
                yield row, column, padded[:, row : row + reach : stride, column : column + reach : stride]


class _BatchNorm:
    """Batch normalisation over the last axis by the batch's statistics, or by frozen ones, in float32.

    The running variance is biased: n in the denominator.
    """

    def __init__(self, layer: networks.BatchNorm) -> None:
        self._layer = layer

    def __call__(self, x: Array, given: Given) -> Array:
        layer, values = self._layer, x.astype(_at_least_float32(x))
        mean, variance = (given.statistics[f"{layer.name}.running_{part}"] for part in ("mean", "var"))
        if not layer.frozen:
            axes = tuple(range(x.ndim - 1))
            of_past = {"mean": mean, "var": variance}
            mean = values.mean(axes)
            variance = jnp.square(values - mean).mean(axes)
            for part, of_batch in (("mean", mean), ("var", variance)):
                kept = networks.BATCH_NORM_MOMENTUM * of_past[part]
                moved = kept + (1 - networks.BATCH_NORM_MOMENTUM) * lax.stop_gradient(of_batch)
                given.moved[f"{layer.name}.running_{part}"] = moved
        factor = lax.rsqrt(variance + layer.eps)
        if not layer.fixed_gamma:
            factor = factor * given.parameters[f"{layer.name}.weight"]
        return ((values - mean) * factor + given.parameters[f"{layer.name}.bias"]).astype(x.dtype)


def _at_least_float32(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _prelu(layer: networks.PReLU) -> Layer:
    def apply(x: Array, given: Given) -> Array:
        return jnp.where(x > 0, x, given.parameters[f"{layer.name}.weight"].astype(x.dtype) * x)

    return apply


def _dropout(layer: networks.Dropout) -> Layer:
    def apply(x: Array, given: Given) -> Array:
        key = jax.random.fold_in(given.key, zlib.crc32(layer.name.encode()))
        kept = jax.random.bernoulli(key, 1 - layer.probability, x.shape)
        return jnp.where(kept, x / (1 - layer.probability), 0)

    return apply


def _flatten(_layer: networks.Flatten) -> Layer:
    """In the table's order, channels first."""
    return lambda x, _given: x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def _linear(layer: networks.Linear) -> Layer:
    def apply(x: Array, given: Given) -> Array:
        weight, bias = (
            given.parameters[f"{layer.name}.{part}"].astype(x.dtype) for part in ("weight", "bias")
        )
        return x @ weight.T + bias

    return apply


_MAKERS: "Dict[type, Callable[[Any], Layer]]" = {
    networks.Conv: _Convolution,
    networks.BatchNorm: _BatchNorm,
    networks.PReLU: _prelu,
    networks.Dropout: _dropout,
    networks.Flatten: _flatten,
    networks.Linear: _linear,
}
