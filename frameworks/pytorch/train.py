"""Train a case with PyTorch: eager or compiled, on one device or, with torch.distributed, on several."""

import time
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np
import torch

from frameworks.common import program
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.loop import FinishedStep
from frameworks.common.margin import held_classes
from frameworks.common.networks import layers_of, parameters
from frameworks.common.phases import DATA, FORWARD_BACKWARD, OPTIMIZER, Phases
from frameworks.common.sampling import too_many_positives
from frameworks.common.schedule import learning_rate
from frameworks.pytorch.head_sharded import SampledMarginSoftmax
from frameworks.pytorch.inputs import Feeder
from frameworks.pytorch.model import build_module, compile_now, ready
from frameworks.pytorch.network import named_arrays
from frameworks.pytorch.optimizer import CaseSGD
from frameworks.pytorch.parallel import join, leave
from frameworks.pytorch.precision import make_scaler
from frameworks.pytorch.sampling import Sample, SampledRows
from frameworks.pytorch.settings import (
    configure,
    device,
    uses_channels_last,
    uses_compile,
    uses_cuda_graphs,
    uses_tf32,
)


class PendingStep:
    """A step in the CUDA stream; its loss is copied behind it."""

    def __init__(self, loss: torch.Tensor, sample: Optional[Sample], window_start: torch.cuda.Event) -> None:
        self._sample, self._window_start = sample, window_start
        told = loss.reshape(1) if sample is None else torch.stack([loss, sample.positives.to(loss.dtype)])
        self._told = torch.empty_like(told, device="cpu", pin_memory=True)
        self._told.copy_(told, non_blocking=True)
        self._ended = torch.cuda.Event(enable_timing=True)
        self._ended.record()

    def wait(self) -> float:
        """Block until the step and the copy of its loss are done; return the loss.

        Raises:
            ValueError: the sample of Partial FC had no place for all positives.
        """
        self._ended.synchronize()
        loss, *positives = self._told.tolist()
        if positives and positives[0] > len(self._sample.index):
            raise ValueError(too_many_positives(int(positives[0]), len(self._sample.index)))
        return loss

    def seconds_since(self, previous: "Optional[PendingStep]") -> float:
        """Device time between the ends of two steps."""
        start = self._window_start if previous is None else previous._ended  # noqa: SLF001
        return start.elapsed_time(self._ended) / 1000


class PyTorchTrainer:
    """`Trainer` of frameworks/common/loop.py on one device of one or several."""

    def __init__(
        self, case: Case, rank: Rank, arrays: Dict[str, np.ndarray], dtype: torch.dtype = torch.float32
    ) -> None:
        """Build the case's module; `arrays` holds every parameter and buffer by the table's name.

        A process that stands for all devices, `rank.devices` of them, takes the batches of all. ValueError
        where the process's place is not one of the case's.
        """
        if rank.world_size != case.world_size or rank.devices not in (1, case.world_size):
            raise ValueError(
                f"the case has {case.world_size} devices; started as {rank.devices} of {rank.world_size}"
            )
        torch.manual_seed(case.seed + rank.rank)  # dropout
        self._case, self._device = case, device(case)
        self.phases = Phases(self._synchronize)
        self._ranks = join(rank, self._device, self.phases)
        module = build_module(case, rank, self._ranks, arrays, dtype)
        self.arrays, self._head, self._feed = named_arrays(module), module.head, Feeder(self._device)
        self._module = ready(case, module, self._ranks)
        compile_now(case, self._module, self._ranks)
        self.trained = {name: array for name, array in self.arrays.items() if array.requires_grad}
        kinds = {spec.name: spec.kind for spec in parameters(layers_of(case))}
        self._scaler = make_scaler(case, self._device, self._ranks)
        self.rows: Optional[SampledRows] = None
        if isinstance(self._head, SampledMarginSoftmax):
            self.trained[CLASSIFIER] = self._head.rows
        self._optimizer = CaseSGD(
            self.trained, {**kinds, CLASSIFIER: "classifier"}, case.optimizer, self._scaler
        )
        if isinstance(self._head, SampledMarginSoftmax):
            self.rows = SampledRows(self._head.weight, self._head.rows, self._optimizer)
            self._head.connect(self.rows)
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

    def forward_backward(self, batch: Batch) -> Tuple[torch.Tensor, torch.Tensor]:
        """Both passes: the global batch's loss, a scalar, and the rank's embeddings [B, E].

        The gradients are in `trained`, with loss scaling still scaled.
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
        if self._case.parallelism == "data":
            self._ranks.mean_(loss)
        return loss, embeddings

    def sampled_index(self) -> Optional[np.ndarray]:
        """Of the rank's rows those that the last step trained, int64 [size]; None where all are trained."""
        return None if self.rows is None else self._head.last_sample.index.cpu().numpy()

    def update(self, loss: torch.Tensor, iteration: int) -> Union[PendingStep, FinishedStep]:
        """Update by the last gradients."""
        with self.phases(OPTIMIZER):
            self._optimizer.step(learning_rate(self._case.schedule, iteration))
            if self.rows is not None:
                self.rows.put_back()
        if self._device.type == "cuda":
            sample = None if self.rows is None else self._head.last_sample
            return PendingStep(loss, sample, self._window_start)
        return FinishedStep(loss.item(), self._window_start)


def make_trainer(case: Case, rank: Rank) -> PyTorchTrainer:
    """A trainer with the initial weights of the case's seed; ValueError for several devices in a process."""
    if rank.devices != 1:
        raise ValueError(f"a process of the PyTorch program drives one device, not {rank.devices}")
    return PyTorchTrainer(case, rank, initial_arrays(case, held_classes(case, rank)))


def facts(case: Case) -> Dict[str, Any]:
    """What runs: versions, threads, device, and the options in effect."""
    configure(case)
    found: Dict[str, Any] = {
        "version": torch.__version__,
        "device": case.device,
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last" if uses_channels_last(case) else "contiguous",
        "compiled": uses_compile(case),
        "cuda_graphs": uses_cuda_graphs(case),
        "fp32_precision": "tf32" if uses_tf32(case) else "ieee",
    }
    if case.device == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return {**found, "cpu_capability": capability, "onednn": _onednn_version()}
    return {
        **found,
        "device_name": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _onednn_version() -> Optional[str]:
    """As in "Intel(R) MKL-DNN v3.12.0 (Git Hash ...)"; None in a build without it."""
    for line in torch.__config__.show().splitlines():
        if "MKL-DNN v" in line:
            return line.split("MKL-DNN v")[1].split()[0]
    return None


def matmul_flops_per_second(case: Case) -> float:
    """The best of five products of two square float32 matrices, n = 2048 on CPU and 8192 on a GPU.

    The matrices are gone from the device before training, so that its peak memory is the training's own.
    """
    rate = _best_product(case)
    if case.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return rate


def _best_product(case: Case) -> float:
    size = {"cpu": 2048, "cuda": 8192}[case.device]
    left, right = (torch.rand(size, size, device=device(case)) for _ in range(2))
    best = float("inf")
    for _ in range(6):  # the first also starts threads and libraries, and is never the best
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak_device_bytes(case: Case) -> Optional[int]:
    """What the allocator had taken from the device at most."""
    return None if case.device == "cpu" else torch.cuda.max_memory_reserved()


if __name__ == "__main__":
    program.run(make_trainer, facts, matmul_flops_per_second, peak_device_bytes)
    leave()
