from __future__ import annotations

import pytest

from frameworks.common.case import case_from_dict
from frameworks.common.cost import classes_touched, forward_macs, model_cost
from frameworks.common.networks import build

# Published by upstream, in 10^9 multiply-accumulates of one 112 x 112 image, without the classifier.
PUBLISHED = {"iresnet18": 2.6, "iresnet34": 4.5, "iresnet50": 6.3, "iresnet100": 12.1}


@pytest.mark.parametrize(("network", "published"), PUBLISHED.items())
def test_macs_are_within_two_percent_of_the_published_ones(network: str, published: float) -> None:
    assert published == pytest.approx(forward_macs(build(network, "E", 512, 0.4)) / 1e9, rel=0.02)


def test_macs_of_mobilefacenet_match_a_count_by_hand() -> None:
    """Map side and channels of every block, written out from the layer list, one line per block."""
    expected = (
        56 * 56 * 3 * 64 * 9  # 3x3, stride 2
        + 56 * 56 * 64 * 9  # depthwise
        + (56 * 56 * 64 * 128 + 28 * 28 * 128 * 9 + 28 * 28 * 128 * 64)  # down, expand 128
        + 4 * 28 * 28 * (64 * 128 + 128 * 9 + 128 * 64)
        + (28 * 28 * 64 * 256 + 14 * 14 * 256 * 9 + 14 * 14 * 256 * 128)  # down, expand 256
        + 6 * 14 * 14 * (128 * 256 + 256 * 9 + 256 * 128)
        + (14 * 14 * 128 * 512 + 7 * 7 * 512 * 9 + 7 * 7 * 512 * 128)  # down, expand 512
        + 2 * 7 * 7 * (128 * 256 + 256 * 9 + 256 * 128)
        + 7 * 7 * 128 * 512  # 1x1
        + 512 * 49  # depthwise 7x7
        + 512 * 128  # linear
    )

    assert expected == forward_macs(build("mobilefacenet", "GDC", 128, 0.4))
    assert 0.221 == pytest.approx(expected / 1e9, rel=0.005)


def test_the_published_figure_of_mobilefacenet_is_for_another_network() -> None:
    """Upstream's 0.45 G is the count of its later `mbf`, not of the Y1 that the 2021 comparison trained.

    `mbf` keeps Y1's blocks and widths between, but passes 128 and 256 channels from block to block where Y1
    passes 64 and 128; its second convolution has 64 groups; the embedding has 512 numbers. Upstream's counter
    adds the norms (2 an element) and the slopes (1 an element).
    """
    convolutions = elements = sloped = 0

    def convolution(side: int, channels: tuple[int, int], kernel: int = 1, groups: int = 1) -> None:
        nonlocal convolutions, elements
        convolutions += side * side * channels[1] * channels[0] // groups * kernel**2
        elements += side * side * channels[1]

    def activated(side: int, channels: tuple[int, int], kernel: int = 1, groups: int = 1) -> None:
        nonlocal sloped
        convolution(side, channels, kernel, groups)
        sloped += side * side * channels[1]

    def bottlenecks(count: int, sides: tuple[int, int], channels: tuple[int, int], expand: int) -> None:
        for _ in range(count):
            activated(sides[0], (channels[0], expand))
            activated(sides[1], (expand, expand), 3, expand)
            convolution(sides[1], (expand, channels[1]))

    activated(56, (3, 128), 3)
    activated(56, (128, 128), 3, 64)
    bottlenecks(1, (56, 28), (128, 128), 128)
    bottlenecks(4, (28, 28), (128, 128), 128)
    bottlenecks(1, (28, 14), (128, 256), 256)
    bottlenecks(6, (14, 14), (256, 256), 256)
    bottlenecks(1, (14, 7), (256, 256), 512)
    bottlenecks(2, (7, 7), (256, 256), 256)
    activated(7, (256, 512))
    convolution(1, (512, 512), 7, 512)
    convolution(1, (512, 512))

    assert pytest.approx(0.45, rel=0.005) == (convolutions + 2 * elements + sloped) / 1e9


@pytest.mark.parametrize(
    ("ratio", "topology", "expected"),
    [
        (None, (1, 1), 10_000),
        (1.0, (1, 4), 10_000),
        (0.1, (1, 1), 1000),
        (0.1, (2, 4), 1000),
        (0.5, (1, 3), 1667 + 1666 + 1666),
        (0.001, (1, 1), 10),
        (0.0001, (1, 2), 2 * 8),  # 8 images may name 8 classes, and a rank keeps them all
    ],
)
def test_classes_that_an_iteration_uses(
    case_content: dict, ratio: float | None, topology: tuple[int, int], expected: int
) -> None:
    nodes, devices = topology
    parallelism = "data" if ratio is None else "partial_fc"
    changed = {"parallelism": parallelism, "sample_ratio": ratio, "num_classes": 10_000}
    where = {"topology": {"nodes": nodes, "devices_per_node": devices}}

    assert expected == classes_touched(case_from_dict({**case_content, **changed, **where}))


def test_the_cost_of_a_case(case_content: dict) -> None:
    cost = model_cost(case_from_dict(case_content))

    assert (220965376, 100 * 128) == (cost.network_macs_per_sample, cost.classifier_macs_per_sample)
    assert 100 * 128 == cost.classifier_parameters
    assert 6 * (220965376 + 12800) == cost.training_flops_per_sample


def test_y1_is_the_network_of_the_paper(case_content: dict) -> None:
    """Chen et al. (arXiv:1804.07573), section 3.3: 221 million multiply-adds, 0.99 million parameters."""
    cost = model_cost(case_from_dict(case_content))

    assert pytest.approx(221e6, rel=0.005) == cost.network_macs_per_sample
    assert pytest.approx(0.99e6, rel=0.02) == cost.network_parameters
