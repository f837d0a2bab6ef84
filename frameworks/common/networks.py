"""The networks, layer by layer: the one table that every framework builds from.

A network is a tuple of layers in order; `Residual` is the only layer that contains others. A layer's
parameters have its name in every framework: `stage1.unit1.conv1` owns `stage1.unit1.conv1.weight`. Tensors
are NCHW: images [B, 3, 112, 112], embeddings [B, embedding_size].

Sources: IResNet is the "improved residual unit" of Deng et al., ArcFace (arXiv:1801.07698), section 3.2;
MobileFaceNet is Chen et al. (arXiv:1804.07573), table 1, with InsightFace's Y1 widths.
"""

from typing import Dict, Iterator, NamedTuple, Tuple, Union

from frameworks.common.case import Case

INPUT_SHAPE = (3, 112, 112)

IRESNET_UNITS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
NETWORKS = (*IRESNET_UNITS, "mobilefacenet")
HEADS = ("E", "FC", "GDC")

IRESNET_EPS = 2e-5
MOBILEFACENET_EPS = 1e-3
HEAD_EPS = 2e-5
BATCH_NORM_MOMENTUM = 0.9  # MXNet's sense: running = 0.9 running + 0.1 batch
PRELU_INIT = 0.25


class Conv(NamedTuple):
    """Convolution without bias; weight [out_channels, in_channels / groups, kernel, kernel]."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    groups: int


class BatchNorm(NamedTuple):
    """Batch normalisation over axis 1. With `fixed_gamma`, gamma stays 1 and is not a parameter.

    A `frozen` one normalises by the running statistics and does not change them; gamma and beta are trained.
    """

    name: str
    channels: int
    eps: float
    fixed_gamma: bool = False
    frozen: bool = False


class PReLU(NamedTuple):
    """x if x > 0, else slope x; one slope per channel, weight [channels]."""

    name: str
    channels: int


class Dropout(NamedTuple):
    """In training each element becomes 0 with `probability`, else it is divided by 1 - probability."""

    name: str
    probability: float


class Flatten(NamedTuple):
    """[B, C, H, W] -> [B, C H W]."""

    name: str


class Linear(NamedTuple):
    """Weight [out_features, in_features] and bias [out_features]."""

    name: str
    in_features: int
    out_features: int


class Residual(NamedTuple):
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    name: str
    body: "Tuple[Layer, ...]"
    shortcut: "Tuple[Layer, ...]"


Layer = Union[Conv, BatchNorm, PReLU, Dropout, Flatten, Linear, Residual]
Layers = Tuple[Layer, ...]


def layers_of(case: Case) -> Layers:
    """The layers of a case, from image to embedding."""
    layers = build(case.network, case.head, case.embedding_size, case.dropout)
    return _with_frozen_norms(layers) if case.batch_norm == "frozen" else layers


def _with_frozen_norms(layers: Layers) -> Layers:
    made = []
    for layer in layers:
        if isinstance(layer, Residual):
            parts = {"body": _with_frozen_norms(layer.body), "shortcut": _with_frozen_norms(layer.shortcut)}
            made.append(layer._replace(**parts))
        else:
            made.append(layer._replace(frozen=True) if isinstance(layer, BatchNorm) else layer)
    return tuple(made)


def build(network: str, head: str, embedding_size: int, dropout: float) -> Layers:
    """The layers from image to embedding; ValueError for an unknown network or head."""
    if network in IRESNET_UNITS:
        body = _iresnet(IRESNET_UNITS[network])
    elif network == "mobilefacenet":
        body = _mobilefacenet()
    else:
        raise ValueError(f"unknown network {network!r}; known: {', '.join(NETWORKS)}")
    return body + _head(head, embedding_size, dropout)


def _conv(name: str, channels: Tuple[int, int], kernel: int, stride: int = 1, groups: int = 1) -> Conv:
    return Conv(name, channels[0], channels[1], kernel, stride, kernel // 2, groups)


def _iresnet(units: Tuple[int, ...]) -> Layers:
    stem = (
        _conv("stem.conv", (3, 64), 3),
        BatchNorm("stem.bn", 64, IRESNET_EPS),
        PReLU("stem.prelu", 64),
    )
    layers = list(stem)
    channels = 64
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512), units), 1):
        for unit in range(1, count + 1):
            layers.append(_iresnet_unit(f"stage{stage}.unit{unit}", (channels, width), 2 if unit == 1 else 1))
            channels = width
    return tuple(layers)


def _iresnet_unit(name: str, channels: Tuple[int, int], stride: int) -> Residual:
    inside, outside = channels[0], channels[1]
    body = (
        BatchNorm(f"{name}.bn1", inside, IRESNET_EPS),
        _conv(f"{name}.conv1", (inside, outside), 3),
        BatchNorm(f"{name}.bn2", outside, IRESNET_EPS),
        PReLU(f"{name}.prelu", outside),
        _conv(f"{name}.conv2", (outside, outside), 3, stride),
        BatchNorm(f"{name}.bn3", outside, IRESNET_EPS),
    )
    shortcut = (
        _conv(f"{name}.shortcut.conv", channels, 1, stride),
        BatchNorm(f"{name}.shortcut.bn", outside, IRESNET_EPS),
    )
    return Residual(name, body, shortcut if stride != 1 or inside != outside else ())


def _mobilefacenet() -> Layers:
    layers = [
        *_conv_bn_prelu("conv1", (3, 64), 3, 2),
        *_conv_bn_prelu("conv2", (64, 64), 3, 1, 64),
        *_bottleneck("down1", (64, 64), 128, 2),
        *_residuals("stage1", 4, 64, 128),
        *_bottleneck("down2", (64, 128), 256, 2),
        *_residuals("stage2", 6, 128, 256),
        *_bottleneck("down3", (128, 128), 512, 2),
        *_residuals("stage3", 2, 128, 256),
        *_conv_bn_prelu("conv3", (128, 512), 1, 1),
    ]
    return tuple(layers)


def _conv_bn(name: str, channels: Tuple[int, int], kernel: int, stride: int = 1, groups: int = 1) -> Layers:
    return (
        _conv(f"{name}.conv", channels, kernel, stride, groups),
        BatchNorm(f"{name}.bn", channels[1], MOBILEFACENET_EPS),
    )


def _conv_bn_prelu(
    name: str, channels: Tuple[int, int], kernel: int, stride: int = 1, groups: int = 1
) -> Layers:
    return (*_conv_bn(name, channels, kernel, stride, groups), PReLU(f"{name}.prelu", channels[1]))


def _bottleneck(name: str, channels: Tuple[int, int], expand: int, stride: int) -> Layers:
    return (
        *_conv_bn_prelu(f"{name}.expand", (channels[0], expand), 1),
        *_conv_bn_prelu(f"{name}.depthwise", (expand, expand), 3, stride, expand),
        *_conv_bn(f"{name}.project", (expand, channels[1]), 1),
    )


def _residuals(name: str, count: int, channels: int, expand: int) -> Layers:
    names = (f"{name}.unit{unit}" for unit in range(1, count + 1))
    return tuple(Residual(unit, _bottleneck(unit, (channels, channels), expand, 1), ()) for unit in names)


def _head(head: str, embedding_size: int, dropout: float) -> Layers:
    embed = (
        Linear("head.linear", 512 if head == "GDC" else 512 * 7 * 7, embedding_size),
        BatchNorm("head.embedding_bn", embedding_size, HEAD_EPS, fixed_gamma=True),
    )
    if head == "GDC":
        depthwise = (
            Conv("head.depthwise.conv", 512, 512, 7, 1, 0, 512),
            BatchNorm("head.depthwise.bn", 512, MOBILEFACENET_EPS),
        )
        return (*depthwise, Flatten("head.flatten"), *embed)
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; known: {', '.join(HEADS)}")
    drop = (Dropout("head.dropout", dropout),) if head == "E" and dropout > 0 else ()
    return (BatchNorm("head.bn", 512, HEAD_EPS), *drop, Flatten("head.flatten"), *embed)


def walk(layers: Layers) -> Iterator[Layer]:
    """Every layer; a Residual is replaced by its layers, first the body's, then the shortcut's."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from walk(layer.body)
            yield from walk(layer.shortcut)
        else:
            yield layer


def map_sides(layers: Layers, side: int = INPUT_SHAPE[1]) -> Dict[str, int]:
    """Side of each layer's square output map, by the layer's name; 1 from Flatten on."""
    sides = {}
    for layer in layers:
        if isinstance(layer, Residual):
            sides.update(map_sides(layer.shortcut, side))
            sides.update(map_sides(layer.body, side))
            side = sides[layer.body[-1].name]
        elif isinstance(layer, Conv):
            side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
        elif isinstance(layer, Flatten):
            side = 1
        sides[layer.name] = side
    return sides


class ParameterSpec(NamedTuple):
    """A trained array. `kind`: convolution, linear, bias, batch_norm (gamma and beta) or prelu."""

    name: str
    shape: Tuple[int, ...]
    kind: str


def parameters(layers: Layers) -> Tuple[ParameterSpec, ...]:
    """All trained arrays of the network, in order, without the classifier."""
    found = []
    for layer in walk(layers):
        if isinstance(layer, Conv):
            shape = (layer.out_channels, layer.in_channels // layer.groups, layer.kernel, layer.kernel)
            found.append(ParameterSpec(layer.name + ".weight", shape, "convolution"))
        elif isinstance(layer, BatchNorm):
            if not layer.fixed_gamma:
                found.append(ParameterSpec(layer.name + ".weight", (layer.channels,), "batch_norm"))
            found.append(ParameterSpec(layer.name + ".bias", (layer.channels,), "batch_norm"))
        elif isinstance(layer, PReLU):
            found.append(ParameterSpec(layer.name + ".weight", (layer.channels,), "prelu"))
        elif isinstance(layer, Linear):
            shape = (layer.out_features, layer.in_features)
            found.append(ParameterSpec(layer.name + ".weight", shape, "linear"))
            found.append(ParameterSpec(layer.name + ".bias", (layer.out_features,), "bias"))
    return tuple(found)


def buffers(layers: Layers) -> Dict[str, Tuple[int, ...]]:
    """The running statistics of every BatchNorm: name -> shape."""
    norms = [layer for layer in walk(layers) if isinstance(layer, BatchNorm)]
    parts = ("running_mean", "running_var")
    return {f"{norm.name}.{part}": (norm.channels,) for norm in norms for part in parts}
