from __future__ import annotations

from collections import Counter

import pytest

from frameworks.common.networks import (
    HEADS,
    IRESNET_UNITS,
    NETWORKS,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    buffers,
    build,
    parameters,
    walk,
)

EVERY = [(network, head) for network in NETWORKS for head in HEADS]


@pytest.mark.parametrize(("network", "head"), EVERY)
def test_every_name_is_unique(network: str, head: str) -> None:
    layers = build(network, head, 512, 0.4)

    assert [] == [name for name, count in Counter(layer.name for layer in walk(layers)).items() if count > 1]


@pytest.mark.parametrize(("network", "head"), EVERY)
def test_channels_fit_from_layer_to_layer(network: str, head: str) -> None:
    channels = 3
    for layer in walk(build(network, head, 512, 0.4)):
        if ".shortcut." in layer.name:
            continue  # starts again from the unit's input; the next unit sees the same channels
        if isinstance(layer, Conv):
            assert channels == layer.in_channels, layer.name
            channels = layer.out_channels
        elif isinstance(layer, BatchNorm):
            assert channels == layer.channels, layer.name
        elif isinstance(layer, Linear):
            channels = layer.out_features
    assert channels == 512


# Convolutions in the name of IResNet-N: the stem, two a unit and the embedding layer.
@pytest.mark.parametrize("depth", [18, 34, 50, 100])
def test_the_depth_is_in_the_name(depth: int) -> None:
    units = sum(IRESNET_UNITS[f"iresnet{depth}"])
    convolutions = [
        layer for layer in walk(build(f"iresnet{depth}", "E", 512, 0.4)) if isinstance(layer, Conv)
    ]

    assert depth == 2 * units + 2
    assert 1 + 2 * units == sum(".shortcut." not in layer.name for layer in convolutions)
    assert 4 == sum(".shortcut." in layer.name for layer in convolutions)


def test_batch_norm_eps_depends_on_the_place() -> None:
    eps = {
        (network, layer.name.startswith("head.")): set()
        for network in NETWORKS
        for layer in walk(build(network, "E", 512, 0.4))
    }
    for network in NETWORKS:
        for layer in walk(build(network, "E", 512, 0.4)):
            if isinstance(layer, BatchNorm):
                eps[network, layer.name.startswith("head.")].add(layer.eps)
    expected = {(network, True): {2e-5} for network in NETWORKS}
    expected |= {(network, False): {2e-5} for network in IRESNET_UNITS} | {("mobilefacenet", False): {1e-3}}

    assert expected == eps


def test_the_depthwise_norm_of_gdc_has_the_eps_of_mobilefacenet() -> None:
    layers = {layer.name: layer for layer in walk(build("iresnet18", "GDC", 128, 0.4))}

    assert 1e-3 == layers["head.depthwise.bn"].eps
    assert 2e-5 == layers["head.embedding_bn"].eps


@pytest.mark.parametrize(("network", "head"), EVERY)
def test_the_embedding_norm_has_no_gamma(network: str, head: str) -> None:
    names = [spec.name for spec in parameters(build(network, head, 512, 0.4))]

    assert ["head.linear.weight", "head.linear.bias", "head.embedding_bn.bias"] == names[-3:]


def test_head_e_is_head_fc_with_dropout() -> None:
    with_dropout, without = build("iresnet18", "E", 512, 0.4), build("iresnet18", "FC", 512, 0.4)

    assert list(without) == [layer for layer in with_dropout if not isinstance(layer, Dropout)]
    assert [Dropout("head.dropout", 0.4)] == [layer for layer in with_dropout if isinstance(layer, Dropout)]
    assert without == build("iresnet18", "E", 512, 0.0)


def test_parameters_of_r100_by_kind() -> None:
    """A stem, 49 units of two convolutions and three norms, 4 shortcuts; the last norm has only a bias."""
    kinds = Counter(spec.kind for spec in parameters(build("iresnet100", "E", 512, 0.4)))

    assert {"convolution": 103, "prelu": 50, "batch_norm": 2 * 153 + 1, "linear": 1, "bias": 1} == kinds


def test_every_norm_has_two_running_statistics() -> None:
    layers = build("mobilefacenet", "GDC", 128, 0.4)
    norms = [layer for layer in walk(layers) if isinstance(layer, BatchNorm)]

    assert {f"{n.name}.{part}": (n.channels,) for n in norms for part in ("running_mean", "running_var")} == (
        buffers(layers)
    )


@pytest.mark.parametrize(
    ("network", "head", "message"), [("resnet", "E", "network 'resnet'"), ("iresnet18", "F", "head 'F'")]
)
def test_an_unknown_name_is_refused_with_the_known_ones(network: str, head: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {message}; known: "):
        build(network, head, 512, 0.4)
