"""The backbone in OneFlow, built layer by layer from the table in `frameworks/common/networks.py`."""

from typing import Any, Callable, Dict

import oneflow as flow
from oneflow import Tensor, nn
from oneflow.nn import functional

from frameworks.common import networks


def build_network(layers: networks.Layers) -> nn.Module:
    """The network: [B, 3, 112, 112], scaled -> embeddings [B, embedding_size], in the dtype of the input."""
    return nn.Sequential(*[_layer(layer) for layer in layers])


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

    def __init__(self, layer: networks.Residual) -> None:
        super().__init__()
        self.body = build_network(layer.body)
        self.shortcut = build_network(layer.shortcut) if layer.shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in, the body's shape out."""
        return self.body(x) + self.shortcut(x)


def _layer(layer: networks.Layer) -> nn.Module:
    module = _MAKERS[type(layer)](layer)
    if not isinstance(layer, networks.Residual):
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


def _convolution(layer: networks.Conv) -> nn.Module:
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
        self.num_batches_tracked = None  # unused, and it costs an operator per layer

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept both."""


class _FrozenBatchNorm(_BatchNorm):
    """Normalises by the running statistics, also in training."""

    def train(self, mode: bool = True) -> "_FrozenBatchNorm":  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode."""
        del mode
        return super().train(False)  # noqa: FBT003


def _batch_norm(layer: networks.BatchNorm) -> nn.Module:
    # OneFlow's momentum is the weight of the batch, the table's that of the past.
    kind = _FrozenBatchNorm if layer.frozen else _BatchNorm
    norm = kind(layer.channels, eps=layer.eps, momentum=1 - networks.BATCH_NORM_MOMENTUM).train()
    if layer.fixed_gamma:
        norm.weight.requires_grad_(False)  # noqa: FBT003 - torch's signature
    return norm


class _PReLU(nn.PReLU):
    """Computes in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return flow._C.prelu(x, self.weight.to(x.dtype))  # noqa: SLF001


class _Dropout(nn.Module):
    """In a graph of several ranks OneFlow's own gives all of them the same mask, whatever the seed."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self._probability = probability

    def forward(self, x: Tensor) -> Tensor:
        where = {"placement": x.placement, "sbp": x.sbp} if x.is_global else {"device": x.device}
        kept = flow.rand(*x.shape, **where) >= self._probability
        return x * (kept.to(x.dtype) / (1 - self._probability))


class _Linear(nn.Linear):
    """Computes in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


_MAKERS: "Dict[type, Callable[[Any], nn.Module]]" = {
    networks.Conv: _convolution,
    networks.BatchNorm: _batch_norm,
    networks.PReLU: lambda layer: _PReLU(layer.channels),
    networks.Dropout: lambda layer: _Dropout(layer.probability),
    networks.Flatten: lambda _layer: nn.Flatten(),
    networks.Linear: lambda layer: _Linear(layer.in_features, layer.out_features),
    networks.Residual: ResidualBlock,
}
