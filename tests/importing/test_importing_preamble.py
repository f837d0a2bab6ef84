"""Settings that a program prints before it trains."""

from __future__ import annotations

from dlperf.importing.case import Preamble


def settings(*lines: str) -> dict[str, tuple[str, int]]:
    preamble = Preamble()
    for number, line in enumerate(lines, 1):
        preamble.feed(number, line.encode())
    return preamble.settings


def test_the_first_of_a_name_counts_however_it_is_written() -> None:
    assert {
        "network": ("r100", 1),
        "batch_size": ("64", 1),
        "fp16": ("1", 2),
        "devices_per_node": ("8", 3),
    } == settings(
        "Namespace(network='r100', batch_size=064, sample_rate=2.0)",
        "fp16: True",
        "python train.py --gpu_num_per_node 8 --network y1",
    )


def test_a_number_that_is_too_long_for_a_count_is_none() -> None:
    assert {} == settings("batch_size = " + "9" * 5000, "num_classes: " + "0" * 19)
