"""Partial FC: which classes a rank trains in a step. An et al. (arXiv:2010.05222), section 3.

A rank keeps every class of its own that the global batch names (the positives) and fills up with others,
drawn without replacement, to `sample_size`. The size never changes, so that the engines can compile for it;
it is the share that the case asks for, or, where that could be too few, enough for the positives of any batch
that is to be expected.
"""

import math

import numpy as np

from frameworks.common.case import Case
from frameworks.common.margin import class_range

# So many standard deviations above the mean. Over up to 1024 ranks a batch of 1 image a rank brings one of
# them more in 1e-5 of its draws, of 8 in 4e-7, of 64 in 2e-8; a case draws few batches, as they come again.
_DEVIATIONS = 6


def sample_size(case: Case, rank: int) -> int:
    """Classes that `rank` trains in a step of Partial FC, of the `class_range` that it holds.

    int(sample_ratio x its classes), as upstream, but no fewer than the positives that a batch may name: with
    labels spread evenly they are binomial, B(global batch, its classes / all classes).
    """
    first, last = class_range(case.num_classes, case.world_size, rank)
    held, batch = last - first, case.global_batch_size
    share = held / case.num_classes
    most = math.ceil(batch * share + _DEVIATIONS * math.sqrt(batch * share * (1 - share)))
    return min(held, max(int((case.sample_ratio or 1.0) * held), min(most, batch)))


def sampling_stream(case: Case, rank: int) -> np.random.Generator:
    """The random stream of one rank's samples; one draw a step, in the order of the steps."""
    return np.random.default_rng([case.seed, 0x5A3B1E, rank])


def sampled_classes(labels: np.ndarray, held: range, size: int, stream: np.random.Generator) -> np.ndarray:
    """Indices into the rank's own rows, int64 [size], rising: its positives, and others drawn at random.

    Args:
        labels: of the global batch, int [R B].
        held: the classes that the rank holds.
        size: how many to give.
        stream: the rank's own.

    Raises:
        ValueError: the labels name more than `size` of the rank's classes.
    """
    positives = np.unique(labels)
    positives = positives[(positives >= held.start) & (positives < held.stop)] - held.start
    if len(positives) > size:
        raise ValueError(too_many_positives(len(positives), size))
    scores = stream.random(len(held))
    scores[positives] = 2.0  # above every other
    return np.sort(np.argpartition(-scores, size - 1)[:size]).astype(np.int64)


def too_many_positives(found: int, size: int) -> str:
    """What to say where a batch names more classes of a rank than it samples."""
    return f"a batch names {found} classes of a rank that samples {size}; take a larger sample_ratio"
