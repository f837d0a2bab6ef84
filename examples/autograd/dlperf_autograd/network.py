"""The backbone in Autograd: one function a kind of layer, over the table in frameworks/common/networks.py."""

import autograd.numpy as np
from autograd.tracer import getval

from frameworks.common.networks import (
    BATCH_NORM_MOMENTUM,
    BatchNorm,
    Conv,
    Flatten,
    Linear,
    PReLU,
    Residual,
)


def forward(layers, x, arrays, buffers):
    """[B, 3, 112, 112] in, embeddings out; `arrays` and `buffers` go by the table's names."""
    for layer in layers:
        x = FORWARD[type(layer)](layer, x, arrays, buffers)
    return x


def convolution(layer, x, arrays, _buffers):
    """One product for each place in the kernel."""
    weight, pad = arrays[layer.name + ".weight"], layer.padding
    batch, channels, side = x.shape[:3]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), "constant") if pad else x
    side = (side + 2 * pad - layer.kernel) // layer.stride + 1
    last = (side - 1) * layer.stride + 1
    total = 0.0
    for row in range(layer.kernel):
        for column in range(layer.kernel):
            seen = padded[:, :, row : row + last : layer.stride, column : column + last : layer.stride]
            tap = weight[:, :, row, column]
            if layer.groups == 1:
                product = np.matmul(tap, np.reshape(seen, (batch, channels, side * side)))
                total = total + np.reshape(product, (batch, layer.out_channels, side, side))
            else:  # depthwise
                total = total + tap[:, :, None] * seen
    return total


def batch_norm(layer, x, arrays, buffers):
    """By the batch's statistics; the running ones move along."""
    axes, shape = ((0,), (1, -1)) if x.ndim == 2 else ((0, 2, 3), (1, -1, 1, 1))  # noqa: PLR2004
    mean = np.mean(x, axis=axes, keepdims=True)
    variance = np.mean((x - mean) ** 2, axis=axes, keepdims=True)
    for part, batch in (("running_mean", mean), ("running_var", variance)):
        name = f"{layer.name}.{part}"
        share = (1 - BATCH_NORM_MOMENTUM) * getval(batch).ravel()
        buffers[name] = BATCH_NORM_MOMENTUM * buffers[name] + share
    normal = (x - mean) / np.sqrt(variance + layer.eps)
    if not layer.fixed_gamma:
        normal = normal * np.reshape(arrays[layer.name + ".weight"], shape)
    return normal + np.reshape(arrays[layer.name + ".bias"], shape)


def prelu(layer, x, arrays, _buffers):
    """One slope a channel."""
    slope = np.reshape(arrays[layer.name + ".weight"], (1, -1, 1, 1))
    return np.maximum(x, 0) + slope * np.minimum(x, 0)


def linear(layer, x, arrays, _buffers):
    """[B, in_features] -> [B, out_features]."""
    return np.dot(x, arrays[layer.name + ".weight"].T) + arrays[layer.name + ".bias"]


def flatten(_layer, x, _arrays, _buffers):
    """[B, C, H, W] -> [B, C H W]."""
    return np.reshape(x, (x.shape[0], -1))


def residual(layer, x, arrays, buffers):
    """An empty shortcut is the identity."""
    return forward(layer.body, x, arrays, buffers) + forward(layer.shortcut, x, arrays, buffers)


FORWARD = {
    Conv: convolution,
    BatchNorm: batch_norm,
    PReLU: prelu,
    Linear: linear,
    Flatten: flatten,
    Residual: residual,
}
