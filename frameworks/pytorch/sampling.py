"""Partial FC's classes of a step, and the rows of the classifier that are trained in it.

`frameworks/common/sampling.py` has the definition. On CPU its numpy sampler is used, so that engines can be
compared; on CUDA the device draws for itself, by the same rule, and the host waits for nothing.
"""

from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import nn

from frameworks.common.case import Case, Rank
from frameworks.common.margin import class_range
from frameworks.common.sampling import sample_size, sampled_classes, sampling_stream
from frameworks.pytorch.optimizer import CaseSGD


class Sample(NamedTuple):
    """Indices into a rank's rows, int64 [size], rising.

    `positives`, where still to be checked: how many of the rank's classes the batch names, int64 scalar;
    beyond `size` the sample lacks some of them.
    """

    index: torch.Tensor
    positives: Optional[torch.Tensor] = None


class HostSampler:
    """The numpy sampler; of a process that stands for several devices, the samples of each."""

    def __init__(self, case: Case, rank: Rank) -> None:
        numbers = range(rank.rank, rank.rank + rank.devices)
        self._held = [range(*class_range(case.num_classes, case.world_size, number)) for number in numbers]
        self._sizes = [sample_size(case, number) for number in numbers]
        self._streams = [sampling_stream(case, number) for number in numbers]
        self.size = sum(self._sizes)

    def __call__(self, labels: torch.Tensor) -> Sample:
        """Sample for the labels of the global batch, int64 [R B]; ValueError where positives do not fit."""
        named = labels.cpu().numpy()
        first = self._held[0].start
        parts = [
            sampled_classes(named, held, size, stream) + (held.start - first)
            for held, size, stream in zip(self._held, self._sizes, self._streams)
        ]
        return Sample(torch.from_numpy(np.concatenate(parts)))


class DeviceSampler:
    """The device's own: every class gets a random score, a positive one above all, and the best are taken."""

    def __init__(self, case: Case, rank: Rank, device: torch.device) -> None:
        self._held = range(*class_range(case.num_classes, case.world_size, rank.rank))
        self.size = sample_size(case, rank.rank)
        seed = int(sampling_stream(case, rank.rank).integers(2**63))
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, labels: torch.Tensor) -> Sample:
        """Sample for the labels of the global batch, int64 [R B], on the device."""
        count = len(self._held)
        own = labels - self._held.start
        # Labels of other ranks mark a row behind the last, which is then left out.
        marked = torch.where((own >= 0) & (own < count), own, count)
        scores = torch.rand(count + 1, device=labels.device, generator=self._generator)
        scores = scores.index_fill_(0, marked, 2.0)[:count]
        index = scores.topk(self.size, sorted=False).indices.sort().values
        return Sample(index, (scores == 2.0).sum())  # noqa: PLR2004


class SampledRows:
    """The rows of a step, copied out of the table and back, with their momentum: nothing else is touched."""

    def __init__(self, table: nn.Parameter, rows: nn.Parameter, optimizer: CaseSGD) -> None:
        """Take the whole table [classes, E], and what is trained in a step, [size, E]."""
        self._pairs = [(table.data, rows.data)]
        momentum = optimizer.momentum(rows)
        if momentum is not None:
            self.momentum = torch.zeros_like(table)
            optimizer.keep_in_rate(self.momentum)
            self._pairs.append((self.momentum, momentum))
        self._index: Optional[torch.Tensor] = None

    @torch.no_grad()
    def take(self, index: torch.Tensor) -> None:
        """Copy the rows `index` out."""
        self._index = index
        for table, rows in self._pairs:
            torch.index_select(table, 0, index, out=rows)

    @torch.no_grad()
    def put_back(self) -> None:
        """Copy them back."""
        for table, rows in self._pairs:
            table.index_copy_(0, self._index, rows)
