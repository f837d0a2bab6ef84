"""Partial FC on the CPU, for which OneFlow has no sampler: the ranks' samples are drawn on the host."""

from typing import List, Tuple

import numpy as np

from frameworks.common.case import Case, Rank
from frameworks.common.margin import held_classes
from frameworks.common.sampling import sample_size, sampled_classes, sampling_stream


def samples_on_host(case: Case) -> bool:
    """OneFlow's sampler of Partial FC has no kernel for the CPU."""
    return case.parallelism == "partial_fc" and case.device == "cpu"


def sample_sizes(case: Case) -> List[int]:
    """How many classes each rank samples in a step."""
    return [sample_size(case, number) for number in range(case.world_size)]


class HostSampler:
    """The samples of one rank, one a step."""

    def __init__(self, case: Case, rank: Rank, sizes: List[int]) -> None:
        self._first_column, self._size = sum(sizes[: rank.rank]), sizes[rank.rank]
        self._held, self._batch = held_classes(case, rank), case.global_batch_size
        self._stream = sampling_stream(case, rank.rank)

    def example(self) -> Tuple[np.ndarray, np.ndarray]:
        """Columns and index as `sample` gives them, without a draw."""
        return np.zeros(self._batch, np.int64), self._held.start + np.arange(self._size, dtype=np.int64)

    def sample(self, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Draw for the labels int64 [R B] of the global batch.

        Returns:
            columns: int64 [R B], where the class of each label stands among the samples of all ranks; 0 for
                a class that this rank does not hold.
            index: int64 [S_r], the classes sampled, rising.

        Raises:
            ValueError: the labels name more classes of this rank than it samples.
        """
        rows = sampled_classes(labels, self._held, self._size, self._stream)
        index = rows + self._held.start
        own = (labels >= self._held.start) & (labels < self._held.stop)
        places = np.searchsorted(index, labels)
        return np.where(own, self._first_column + places, 0), index
