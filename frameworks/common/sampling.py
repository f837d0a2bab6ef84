"""Partial FC: which classes a rank trains in a step. An et al. (arXiv:2010.05222), section 3.

A rank keeps all of its own classes that the global batch names (the positives) and adds others, drawn without
replacement, up to `sample_size`. The size never changes, so that the engines can compile for it. It is the
share that the case asks for or, if that may be too small, enough for the positives of any batch to be
expected.
"""

import math
from typing import List

import numpy as np

from frameworks.common.case import Case, Rank
from frameworks.common.margin import class_range, held_classes

# Standard deviations above the mean. Over up to 1024 ranks the chance that a batch names more classes of some
# rank is 1e-5 with 1 image per rank, 4e-7 with 8, 2e-8 with 64. A case has few batches, which it repeats.
_DEVIATIONS = 6


def sample_size(case: Case, rank: int) -> int:
    """How many classes of its `class_range` a rank trains in a step of Partial FC.

    int(sample_ratio x its classes), as upstream, but at least the positives that a batch may name: with
    evenly spread labels their number is binomial, B(global batch, its classes / all classes).
    """
    first, last = class_range(case.num_classes, case.world_size, rank)
    held, batch = last - first, case.global_batch_size
    share = held / case.num_classes
    most = math.ceil(batch * share + _DEVIATIONS * math.sqrt(batch * share * (1 - share)))
    return min(held, max(int((case.sample_ratio or 1.0) * held), min(most, batch)))


def sample_sizes(case: Case) -> List[int]:
    """The `sample_size` of every rank."""
    return [sample_size(case, rank) for rank in range(case.world_size)]


def sampling_stream(case: Case, rank: int) -> np.random.Generator:
    """The random stream of one rank's samples: one draw per step, in the order of the steps."""
    return np.random.default_rng([case.seed, 0x5A3B1E, rank])


def sampled_classes(labels: np.ndarray, held: range, size: int, stream: np.random.Generator) -> np.ndarray:
    """Indices into the rank's own rows, int64 [size], ascending: its positives, and others drawn at random.

    Args:
        labels: of the global batch, int [R B].
        held: the classes that the rank holds.
        size: how many indices to return.
        stream: the rank's own random stream.

    Raises:
        ValueError: the labels name more than `size` of the rank's classes.
    """
    positives = np.unique(labels)
    positives = positives[(positives >= held.start) & (positives < held.stop)] - held.start
    if len(positives) > size:
        raise ValueError(too_many_positives(len(positives), size))
    scores = stream.random(len(held))
    scores[positives] = 2.0  # above all others
    return np.sort(np.argpartition(-scores, size - 1)[:size]).astype(np.int64)


def too_many_positives(found: int, size: int) -> str:
    """The error message for a batch that names more classes of a rank than it samples."""
    return f"a batch names {found} classes of a rank that samples {size}; take a larger sample_ratio"


class HostSampler:
    """Draws the samples of a process's devices with numpy: the same in every engine."""

    def __init__(self, case: Case, rank: Rank) -> None:
        numbers = range(rank.rank, rank.rank + rank.devices)
        self.held = held_classes(case, rank)
        self._devices = [range(*class_range(case.num_classes, case.world_size, number)) for number in numbers]
        self._sizes = [sample_size(case, number) for number in numbers]
        self._streams = [sampling_stream(case, number) for number in numbers]
        self.size = sum(self._sizes)

    def sample(self, labels: np.ndarray) -> np.ndarray:
        """Draw for the labels int [R B] of the global batch: rows of the process, int64 [size], ascending.

        Raises:
            ValueError: the labels name more classes of a device than it samples.
        """
        parts = [
            sampled_classes(labels, held, size, stream) + (held.start - self.held.start)
            for held, size, stream in zip(self._devices, self._sizes, self._streams)
        ]
        return np.concatenate(parts)

    def places(self, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """For each label its place in the sample `rows`, int64 [R B]; -1 if another process has its class."""
        inside = (labels >= self.held.start) & (labels < self.held.stop)
        return np.where(inside, np.searchsorted(rows, labels - self.held.start), -1)
