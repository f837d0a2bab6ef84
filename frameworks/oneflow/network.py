"""The backbone as OneFlow modules, built layer by layer from the table in `frameworks/common/networks.py`."""

from typing import Any, Callable, Dict

import oneflow as flow
from oneflow import Tensor, nn
from oneflow.nn import functional

from frameworks.common.networks import (
    BATCH_NORM_MOMENTUM,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Layer,
    Layers,
    Linear,
    PReLU,
    Residual,
)


def build_network(layers: Layers) -> nn.Module:
    """The network: [B, 3, 112, 112], scaled -> embeddings [B, embedding_size], in the dtype of the input."""
    return _sequence(layers)


def named_arrays(network: nn.Module) -> Dict[str, Tensor]:
    """Every trained array and running statistic by the table's name, in the table's order."""
    named = {}
    for module in network.modules():
        layer = getattr(module, "table_name", None)
        if layer is not None:
            trained = [item for item in module.named_parameters(recurse=False) if item[1].requires_grad]
            parts = [*trained, *module.named_buffers(recurse=False)]
            named.update({f"{layer}.{part}": array for part, array in parts})
    return named


class ResidualBlock(nn.Module):
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Both branches, added."""
        return self.body(x) + self.shortcut(x)


def _sequence(layers: Layers) -> nn.Module:
    return nn.Sequential(*[_module(layer) for layer in layers])


def _module(layer: Layer) -> nn.Module:
    if isinstance(layer, Residual):
        shortcut = _sequence(layer.shortcut) if layer.shortcut else nn.Identity()
        return ResidualBlock(_sequence(layer.body), shortcut)
    module = _MAKERS[type(layer)](layer)
    module.table_name = layer.name
    return module


class _Conv2d(nn.Conv2d):
    """Computes in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return flow._C.conv2d(  # noqa: SLF001 - nn.functional has none in 0.8
            x,
            self.weight.to(x.dtype),
            None,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            channel_pos="channels_first",
        )


def _convolution(layer: Conv) -> nn.Module:
    return _Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel,
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=False,
    )


class _BatchNorm(nn.BatchNorm2d):
    """OneFlow's normalisation over axis 1, for [B, C] as well as [B, C, H, W]."""

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.num_batches_tracked = None  # nobody reads it, and it costs an operator a layer

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept both."""


class _FrozenBatchNorm(_BatchNorm):
    """Normalises by the running statistics, and is never told to train."""

    def train(self, mode: bool = True) -> "_FrozenBatchNorm":  # noqa: FBT001, FBT002 - torch's signature
        """Stay as it is."""
        del mode
        return super().train(False)  # noqa: FBT003


def _batch_norm(layer: BatchNorm) -> nn.Module:
    # Momentum here is the weight of the batch, the table's is that of the past.
    kind = _FrozenBatchNorm if layer.frozen else _BatchNorm
    norm = kind(layer.channels, eps=layer.eps, momentum=1 - BATCH_NORM_MOMENTUM).train()
    if layer.fixed_gamma:
        norm.weight.requires_grad_(False)  # noqa: FBT003 - torch's signature
    return norm


class _PReLU(nn.PReLU):
    """Computes in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return flow._C.prelu(x, self.weight.to(x.dtype))  # noqa: SLF001


def _prelu(layer: PReLU) -> nn.Module:
    return _PReLU(layer.channels)


class _Dropout(nn.Module):
    """In a graph of several ranks OneFlow's own gives all of them the same mask, whatever the seed."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self._probability = probability

    def forward(self, x: Tensor) -> Tensor:
        where = {"placement": x.placement, "sbp": x.sbp} if x.is_global else {"device": x.device}
        kept = flow.rand(*x.shape, **where) >= self._probability
        return x * (kept.to(x.dtype) / (1 - self._probability))


def _dropout(layer: Dropout) -> nn.Module:
    return _Dropout(layer.probability)


def _flatten(_layer: Flatten) -> nn.Module:
    return nn.Flatten()


class _Linear(nn.Linear):
    """Computes in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


def _linear(layer: Linear) -> nn.Module:
    return _Linear(layer.in_features, layer.out_features)


_MAKERS: "Dict[type, Callable[[Any], nn.Module]]" = {
    Conv: _convolution,
    BatchNorm: _batch_norm,
    PReLU: _prelu,
    Dropout: _dropout,
    Flatten: _flatten,
    Linear: _linear,
}
