"""Synthetic training data: the same uint8 images and labels in every framework, from the case's seed."""

import itertools
from typing import Iterator, List, Tuple

import numpy as np

from frameworks.common.case import Case
from frameworks.common.networks import INPUT_SHAPE

Batch = Tuple[np.ndarray, np.ndarray]

# Distinct batches a rank cycles through: enough that no cache holds the input of the next step.
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


def endless_batches(case: Case, rank: int) -> Iterator[Batch]:
    """The rank's batches, again and again.

    They are made beforehand, so that the loop pays for the copy to the device and not for numpy.
    """
    return itertools.cycle(batches(case, rank, BATCHES))
