"""Synthetic training data, the same uint8 images and labels in every framework, from the case's seed."""

from typing import List, Tuple

import numpy as np

from frameworks.common.case import Case, Rank
from frameworks.common.networks import INPUT_SHAPE

Batch = Tuple[np.ndarray, np.ndarray]

# Distinct batches that a rank repeats: enough that no cache holds the input of the next step.
BATCHES = 8


def batches(case: Case, rank: int, count: int) -> List[Batch]:
    """`count` batches of one rank: images uint8 [B, 3, 112, 112], labels int64 [B] in [0, num_classes)."""
    stream = np.random.default_rng([case.seed, 0xDA7A, rank])
    size = case.batch_size_per_device
    made = []
    for _ in range(count):
        images = stream.integers(0, 256, (size, *INPUT_SHAPE), dtype=np.uint8)
        made.append((images, stream.integers(0, case.num_classes, size, dtype=np.int64)))
    return made


def process_batches(case: Case, rank: Rank, count: int) -> List[Batch]:
    """`count` batches of a process: those of its devices concatenated, images [D B, 3, 112, 112]."""
    own = [batches(case, number, count) for number in range(rank.rank, rank.rank + rank.devices)]
    if len(own) == 1:
        return own[0]
    return [tuple(np.concatenate(parts) for parts in zip(*of_devices)) for of_devices in zip(*own)]


def repeated_batches(case: Case, rank: Rank) -> List[Batch]:
    """The process's batches, which its steps repeat in this order.

    They are made beforehand, so that a step's time includes the copy to the device but not numpy's work.
    """
    return process_batches(case, rank, BATCHES)
