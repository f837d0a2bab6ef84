"""The backbone in PyTorch, built layer by layer from the table in `frameworks/common/networks.py`."""

from typing import Any, Callable, Dict

import torch
from torch import nn

from frameworks.common import networks

# What a module holds besides the table's arrays: a gamma of 1, and the rows that Partial FC trains in a step.
_UNNAMED = ("fixed_gamma", "rows")


def build_network(layers: networks.Layers) -> nn.Sequential:
    """The network: float32 [B, 3, 112, 112], scaled -> embeddings float32 [B, embedding_size]."""
    return nn.Sequential(*(_layer(layer) for layer in layers))


def named_arrays(network: nn.Module) -> Dict[str, torch.Tensor]:
    """Every trained array and running statistic by the table's name, in the table's order."""
    named = {}
    for module in network.modules():
        layer = getattr(module, "table_name", None)
        if layer is not None:
            parts = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            named.update({f"{layer}.{part}": array for part, array in parts if part not in _UNNAMED})
    return named


class ResidualBlock(nn.Module):
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    def __init__(self, layer: networks.Residual) -> None:
        super().__init__()
        self.body = build_network(layer.body)
        self.shortcut = build_network(layer.shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] in, the body's shape out."""
        return self.body(x) + self.shortcut(x)


def _layer(layer: networks.Layer) -> nn.Module:
    module = _MAKERS[type(layer)](layer)
    if not isinstance(layer, networks.Residual):
        module.table_name = layer.name
    return module


def _convolution(layer: networks.Conv) -> nn.Module:
    shape = layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding
    return nn.Conv2d(*shape, groups=layer.groups, bias=False)


class _BatchNorm(nn.Module):
    """Batch normalisation over axis 1 of [B, C] or [B, C, H, W] by the batch's statistics, or by frozen ones.

    The running variance is PyTorch's: unbiased, n - 1 in the denominator.
    """

    def __init__(self, layer: networks.BatchNorm) -> None:
        super().__init__()
        self._eps, self._frozen = layer.eps, layer.frozen
        gamma = torch.ones(layer.channels)
        if layer.fixed_gamma:
            self.register_buffer("fixed_gamma", gamma)
        else:
            self.weight = nn.Parameter(gamma)
        self._gamma = "fixed_gamma" if layer.fixed_gamma else "weight"
        self.bias = nn.Parameter(torch.zeros(layer.channels))
        self.register_buffer("running_mean", torch.zeros(layer.channels))
        self.register_buffer("running_var", torch.ones(layer.channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `x` and, unless frozen, move the running statistics."""
        return nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            weight=getattr(self, self._gamma),
            bias=self.bias,
            training=not self._frozen,
            momentum=1 - networks.BATCH_NORM_MOMENTUM,  # PyTorch's momentum is the weight of the batch
            eps=self._eps,
        )


_MAKERS: "Dict[type, Callable[[Any], nn.Module]]" = {
    networks.Conv: _convolution,
    networks.BatchNorm: _BatchNorm,
    networks.PReLU: lambda layer: nn.PReLU(layer.channels),
    networks.Dropout: lambda layer: nn.Dropout(layer.probability),
    networks.Flatten: lambda _layer: nn.Flatten(),
    networks.Linear: lambda layer: nn.Linear(layer.in_features, layer.out_features),
    networks.Residual: ResidualBlock,
}
