"""The backbone in Gluon, built layer by layer from the table in `frameworks/common/networks.py`."""

from typing import Any, Callable, Dict

from mxnet.gluon import HybridBlock, Parameter, nn

from frameworks.common import networks

# How PReLU multiplies by the slope (`_PReLU`): with a depthwise 1x1 convolution, or with a broadcast product.
PRELU_FORMS = ("convolution", "broadcast")
# MXNet's own operator, as in upstream's networks. The slope's gradient may be wrong.
NATIVE_PRELU = "native"

# Gluon's names of a parameter's last part, if they differ from the table's.
_TABLE_NAMES = {"gamma": "weight", "beta": "bias"}


def build_network(layers: networks.Layers, prelu_form: str) -> HybridBlock:
    """The network: float32 [B, 3, 112, 112], scaled -> embeddings float32 [B, embedding_size]."""
    sequence = nn.HybridSequential(prefix="")
    for layer in layers:
        sequence.add(_layer(layer, prelu_form))
    return sequence


def named_arrays(block: HybridBlock) -> Dict[str, Parameter]:
    """Every Gluon parameter by the table's name, including running statistics and fixed gammas."""
    named = {}
    for name, parameter in block.collect_params().items():
        layer, _, part = name.rpartition(".")
        named[f"{layer}.{_TABLE_NAMES.get(part, part)}"] = parameter
    return named


class ResidualBlock(HybridBlock):
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    def __init__(self, layer: networks.Residual, prelu_form: str) -> None:
        super().__init__(prefix="")
        self.body = build_network(layer.body, prelu_form)
        self.shortcut = build_network(layer.shortcut, prelu_form) if layer.shortcut else None

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: ARG002 - Gluon passes F
        """Gluon calls this with F = mx.nd or mx.sym."""
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


def _layer(layer: networks.Layer, prelu_form: str) -> HybridBlock:
    if isinstance(layer, (networks.Residual, networks.PReLU)):
        return _MAKERS[type(layer)](layer, prelu_form)
    return _MAKERS[type(layer)](layer)


def _convolution(layer: networks.Conv) -> HybridBlock:
    shape = layer.out_channels, layer.kernel, layer.stride, layer.padding
    named = {"in_channels": layer.in_channels, "prefix": layer.name + "."}
    return nn.Conv2D(*shape, groups=layer.groups, use_bias=False, **named)


def _batch_norm(layer: networks.BatchNorm) -> HybridBlock:
    return nn.BatchNorm(
        momentum=networks.BATCH_NORM_MOMENTUM,
        epsilon=layer.eps,
        scale=not layer.fixed_gamma,  # the operator's fix_gamma: gamma counts as 1 and has no gradient
        use_global_stats=layer.frozen,
        in_channels=layer.channels,
        prefix=layer.name + ".",
    )


class _PReLU(HybridBlock):
    """x if x > 0, else slope x, for [B, C, H, W] with one slope per channel: x + (slope - 1) min(x, 0).

    The form `native` is MXNet's own operator, `LeakyReLU(act_type="prelu")`: in a hybridized graph it can
    multiply the slope's gradient by the slope, depending on what follows it. The gradient at exactly 0 is the
    slope, as in the other engines. On CPU a depthwise convolution is faster than the broadcast product.
    """

    def __init__(self, layer: networks.PReLU, form: str) -> None:
        super().__init__(prefix=layer.name + ".")
        self._channels, self._form = layer.channels, form
        self.weight = self.params.get("weight", shape=(layer.channels,))

    def hybrid_forward(self, F: Any, x: Any, weight: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym, and with the parameters by keyword."""
        if self._form == NATIVE_PRELU:
            return F.LeakyReLU(x, gamma=weight, act_type="prelu")
        negative, factor = F.minimum(x, 0), weight - 1
        if self._form == "broadcast":
            return x + F.broadcast_mul(negative, F.reshape(factor, (1, -1, 1, 1)))
        scaled = F.Convolution(
            negative,
            weight=F.reshape(factor, (-1, 1, 1, 1)),
            kernel=(1, 1),
            num_filter=self._channels,
            num_group=self._channels,
            no_bias=True,
        )
        return x + scaled


def _linear(layer: networks.Linear) -> HybridBlock:
    return nn.Dense(layer.out_features, in_units=layer.in_features, prefix=layer.name + ".")


_MAKERS: "Dict[type, Callable[..., HybridBlock]]" = {
    networks.Conv: _convolution,
    networks.BatchNorm: _batch_norm,
    networks.PReLU: _PReLU,
    networks.Dropout: lambda layer: nn.Dropout(layer.probability),
    networks.Flatten: lambda _layer: nn.Flatten(),
    networks.Linear: _linear,
    networks.Residual: ResidualBlock,
}
