"""Batches on their way to the device."""

from typing import Any, Dict, Optional, Tuple

import torch

from frameworks.common.data import BATCHES, Batch

Tensors = Tuple[torch.Tensor, torch.Tensor]


class Feeder:
    """Images and labels of the device, of a numpy batch.

    On CUDA the copy runs in a stream of its own, beside the step before, out of pinned memory: only from
    there does a copy not wait for the host. Batches that come again are pinned once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Optional[torch.cuda.Stream] = None
        self._pinned: Dict[int, Tuple[Any, Tensors]] = {}
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)

    def __call__(self, batch: Batch) -> Tensors:
        """Queue the copy, and let the current stream wait for it; on CPU nothing is copied."""
        if self._stream is None:
            return torch.from_numpy(batch[0]), torch.from_numpy(batch[1])
        with torch.cuda.stream(self._stream):
            images, labels = (array.to(self._device, non_blocking=True) for array in self._in_pinned(batch))
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in (images, labels):
            tensor.record_stream(current)  # its memory is not given away before that stream is done with it
        return images, labels

    def _in_pinned(self, batch: Batch) -> Tensors:
        kept = self._pinned.get(id(batch[0]))
        if kept is None:
            if len(self._pinned) >= BATCHES:
                self._pinned.clear()
            images, labels = (torch.from_numpy(array).pin_memory() for array in batch)
            # With the array itself, so that no other one gets its id.
            kept = self._pinned[id(batch[0])] = (batch[0], (images, labels))
        return kept[1]
