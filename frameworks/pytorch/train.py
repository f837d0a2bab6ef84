"""Train a case with PyTorch: eager or compiled, on one device or, with torch.distributed, on several."""

import time
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from frameworks.common import program
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.loop import FinishedStep
from frameworks.common.margin import held_classes
from frameworks.common.phases import DATA, FORWARD_BACKWARD, OPTIMIZER, Phases
from frameworks.common.sampling import too_many_positives
from frameworks.common.schedule import learning_rate
from frameworks.pytorch.data import PyTorchReader
from frameworks.pytorch.head_sharded import Sample, SampledMarginSoftmax, SampledRows
from frameworks.pytorch.model import compile_now, make_module, ready
from frameworks.pytorch.network import named_arrays
from frameworks.pytorch.optimizer import make_optimizer
from frameworks.pytorch.parallel import join
from frameworks.pytorch.precision import FIRST_SCALE, make_scaler
from frameworks.pytorch.rendezvous import run_and_leave
from frameworks.pytorch.settings import (
    allocator_peaks,
    device,
    facts,
    matmul_flops_per_second,
    uses_cuda_graphs,
)

Tensors = Tuple[torch.Tensor, torch.Tensor]


class Feeder:
    """Copies images and labels from numpy to the device.

    On CUDA the copy runs in a stream of its own, in parallel with the previous step, from pinned memory: from
    other memory a copy waits for the host. Pinning takes long, so it is done beforehand for `batches`, those
    that the steps repeat. Any other batch, such as one of a data set, is pinned when it comes; torch keeps
    that memory until the device has read it, and then for the next batch.
    """

    def __init__(self, device: torch.device, batches: Sequence[Batch] = ()) -> None:
        self._device = device
        self._stream: Optional[torch.cuda.Stream] = None
        self._pinned: Dict[int, Tuple[Any, Tensors]] = {}
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            for batch in batches:
                # Keep the array too, so that no other one gets its id.
                self._pinned[id(batch[0])] = (batch[0], _pinned(batch))

    def __call__(self, batch: Batch) -> Tensors:
        """Queue the copy, and let the current stream wait for it; on CPU nothing is copied."""
        if self._stream is None:
            return torch.from_numpy(batch[0]), torch.from_numpy(batch[1])
        with torch.cuda.stream(self._stream):
            images, labels = (array.to(self._device, non_blocking=True) for array in self._in_pinned(batch))
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in (images, labels):
            tensor.record_stream(current)  # keeps its memory until that stream is done with it
        return images, labels

    def _in_pinned(self, batch: Batch) -> Tensors:
        kept = self._pinned.get(id(batch[0]))
        return _pinned(batch) if kept is None else kept[1]


def _pinned(batch: Batch) -> Tensors:
    images, labels = (torch.from_numpy(array).pin_memory() for array in batch)
    return images, labels


class PendingStep:
    """A step in the CUDA stream; its loss is copied to the host after it."""

    def __init__(
        self,
        loss: torch.Tensor,
        sample: Optional[Sample],
        window_start: torch.cuda.Event,
        exchanges: List[Tuple[torch.cuda.Event, torch.cuda.Event]],
    ) -> None:
        self._sample, self._window_start, self._exchanges = sample, window_start, exchanges
        values = loss.reshape(1) if sample is None else torch.stack([loss, sample.positives.to(loss.dtype)])
        self._on_host = torch.empty_like(values, device="cpu", pin_memory=True)
        self._on_host.copy_(values, non_blocking=True)
        self._ended = torch.cuda.Event(enable_timing=True)
        self._ended.record()

    def wait(self) -> float:
        """Block until the step and the copy of its loss are done; return the loss.

        Raises:
            ValueError: the batch named more classes of the rank than it samples.
        """
        self._ended.synchronize()
        loss, *positives = self._on_host.tolist()
        if positives and positives[0] > len(self._sample.index):
            raise ValueError(too_many_positives(int(positives[0]), len(self._sample.index)))
        return loss

    def seconds_since(self, previous: "Optional[PendingStep]") -> float:
        """Device time between the ends of two steps."""
        start = self._window_start if previous is None else previous._ended  # noqa: SLF001
        return start.elapsed_time(self._ended) / 1000

    def exchange_seconds(self) -> Optional[float]:
        """Device time in exchanges; None: there was none, as of a single rank."""
        if not self._exchanges:
            return None
        return sum(start.elapsed_time(end) for start, end in self._exchanges) / 1000


class PyTorchTrainer:
    """`Trainer` of frameworks/common/loop.py on one device of one or several."""

    def __init__(
        self,
        case: Case,
        rank: Rank,
        arrays: Dict[str, np.ndarray],
        dtype: torch.dtype = torch.float32,
        *,
        first_scale: float = FIRST_SCALE,
        batches: Sequence[Batch] = (),
    ) -> None:
        """Build the case's module with the parameters and buffers in `arrays`, and take them out of it.

        In fp16 the loss is scaled by `first_scale` until that changes. `batches` are those that the steps
        repeat.

        A process that stands for all `rank.devices` devices takes the batches of all. ValueError if the
        environment's number of ranks is not the case's.
        """
        if rank.world_size != case.world_size or rank.devices not in (1, case.world_size):
            raise ValueError(
                f"the case has {case.world_size} devices; started as {rank.devices} of {rank.world_size}"
            )
        torch.manual_seed(case.seed + rank.rank)  # dropout
        self._case, self._device = case, device(case)
        self.phases = Phases(self._synchronize)
        self._ranks = join(rank, self._device, self.phases)
        module = make_module(case, rank, self._ranks, arrays, dtype)
        self.arrays, self._head, self._feed = named_arrays(module), module.head, Feeder(self._device, batches)
        self._module = ready(case, module, self._ranks)
        compile_now(case, self._module, self._ranks)
        self.trained = {name: array for name, array in self.arrays.items() if array.requires_grad}
        self.rows: Optional[SampledRows] = None
        sampled = isinstance(self._head, SampledMarginSoftmax)
        if sampled:
            self.trained[CLASSIFIER] = self._head.rows
        self._scaler = make_scaler(case, self._device, self._ranks, first_scale=first_scale)
        self._optimizer = make_optimizer(case, self.trained, self._scaler)
        if sampled:
            self._head.connect(self._optimizer)
            self.rows = self._head.sampled_rows
        self.start_window()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def start_window(self) -> None:
        """Wait for everything in the stream."""
        self._synchronize()
        if self._device.type == "cuda":
            self._window_start: Any = torch.cuda.Event(enable_timing=True)
            self._window_start.record()
        else:
            self._window_start = time.perf_counter()

    def step(self, batch: Batch, iteration: int) -> Union[PendingStep, FinishedStep]:
        """Forward pass, backward pass and update: queued on CUDA, done at return on CPU."""
        loss, _ = self.forward_backward(batch)
        return self.update(loss, iteration)

    def forward_backward(self, batch: Batch) -> Tensors:
        """Both passes: the global batch's loss, a scalar, and the rank's embeddings [B, E].

        The gradients, times the loss scale, are in `trained`.
        """
        with self.phases(DATA):
            images, labels = self._feed(batch)
        with self.phases(FORWARD_BACKWARD):
            self._optimizer.zero_grad()
            if uses_cuda_graphs(self._case):
                torch.compiler.cudagraph_mark_step_begin()
            loss, embeddings = self._module(images, labels)
            self._scaler.scale(loss).backward()
            loss = loss.detach()
        self._ranks.gradients_arrived()
        if self._case.parallelism == "data":
            self._ranks.mean_(loss)
        return loss, embeddings

    def update(self, loss: torch.Tensor, iteration: int) -> Union[PendingStep, FinishedStep]:
        """Update by the last gradients."""
        with self.phases(OPTIMIZER):
            self._optimizer.step(learning_rate(self._case.schedule, iteration))
            if self.rows is not None:
                self.rows.put_back()
        if self._device.type == "cuda":
            sample = None if self.rows is None else self._head.last_sample
            return PendingStep(loss, sample, self._window_start, self._ranks.exchanges())
        return FinishedStep(loss.item(), self._window_start, self._exchange_seconds())

    def _exchange_seconds(self) -> Optional[float]:
        """Of the step that ends now, on CPU."""
        exchanges = self._ranks.exchanges()
        return sum(end - start for start, end in exchanges) if self._ranks.size > 1 else None

    def sampled_index(self) -> Optional[np.ndarray]:
        """Which of the rank's rows the last step trained, int64 [size]; None: all."""
        return None if self.rows is None else self._head.last_sample.index.cpu().numpy()


def make_trainer(case: Case, rank: Rank, batches: Sequence[Batch] = ()) -> PyTorchTrainer:
    """A trainer with the initial weights of the case's seed; ValueError for several devices in a process."""
    if rank.devices != 1:
        raise ValueError(f"a process of the PyTorch program drives one device, not {rank.devices}")
    return PyTorchTrainer(case, rank, initial_arrays(case, held_classes(case, rank)), batches=batches)


if __name__ == "__main__":
    own = {"allocator_peaks": allocator_peaks, "open_reader": PyTorchReader}
    run_and_leave(partial(program.run, make_trainer, facts, matmul_flops_per_second, **own))
