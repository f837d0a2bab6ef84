"""The backbone in OneFlow, built layer by layer from the table in `frameworks/common/networks.py`."""

from functools import partial
from typing import Any, Callable, Dict, Optional

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


def set_norm_dtype(network: nn.Module, dtype: flow.dtype) -> None:
    """Let every BatchNorm normalise maps of `dtype`."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.maps_dtype = dtype


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


class _Convolution(nn.Conv2d):
    """Computes in the dtype of its input."""

    def __init__(self, layer: networks.Conv) -> None:
        shape = layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding
        super().__init__(*shape, groups=layer.groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        options = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        # nn.functional has none in 0.8.
        return flow._C.conv2d(x, self.weight.to(x.dtype), None, **options)  # noqa: SLF001


class _BatchNorm(nn.BatchNorm2d):
    """OneFlow's normalisation over axis 1, for [B, C] as well as [B, C, H, W]."""

    def __init__(self, layer: networks.BatchNorm) -> None:
        # OneFlow's momentum is the weight of the batch, the table's that of the past.
        super().__init__(layer.channels, eps=layer.eps, momentum=1 - networks.BATCH_NORM_MOMENTUM)
        self.num_batches_tracked = None  # unused, and it costs an operator per layer
        self._frozen = layer.frozen
        self.maps_dtype: Optional[flow.dtype] = None
        self.weight.requires_grad_(not layer.fixed_gamma)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in `maps_dtype`; None: in the dtype of the input."""
        # A graph calls this with a stand-in for the module, which `super()` refuses.
        normalise = partial(nn.BatchNorm2d.forward, self)
        if self.maps_dtype in (None, x.dtype):
            return normalise(x)
        return normalise(x.to(self.maps_dtype)).to(x.dtype)

    def train(self, mode: bool = True) -> "_BatchNorm":  # noqa: FBT001, FBT002 - torch's signature
        """A frozen one stays in evaluation mode: it normalises by the running statistics."""
        return super().train(mode and not self._frozen)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept both."""


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
    networks.Conv: _Convolution,
    networks.BatchNorm: _BatchNorm,
    networks.PReLU: lambda layer: _PReLU(layer.channels),
    networks.Dropout: lambda layer: _Dropout(layer.probability),
    networks.Flatten: lambda _layer: nn.Flatten(),
    networks.Linear: lambda layer: _Linear(layer.in_features, layer.out_features),
    networks.Residual: ResidualBlock,
}
