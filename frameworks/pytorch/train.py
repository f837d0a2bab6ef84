"""Train a case with PyTorch: eager or compiled, one module from the uint8 images to the loss."""

import time
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np
import torch
from torch import nn

from frameworks.common import program
from frameworks.common.case import Case, Rank, rank_from_environment
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.loop import FinishedStep
from frameworks.common.margin import held_classes
from frameworks.common.networks import layers_of, parameters
from frameworks.common.phases import DATA, FORWARD_BACKWARD, OPTIMIZER, Phases
from frameworks.common.schedule import learning_rate
from frameworks.pytorch.head import MarginSoftmax
from frameworks.pytorch.network import build_network, named_arrays
from frameworks.pytorch.optimizer import CaseSGD


class TrainingModule(nn.Module):
    """Images uint8 [B, 3, 112, 112] and labels int64 [B] -> loss, a scalar, and embeddings [B, E]."""

    def __init__(self, network: nn.Module, head: nn.Module, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.network, self.head, self._memory_format = network, head, memory_format

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Compute in the dtype of the weights."""
        scaled = (images.to(self.head.weight.dtype, memory_format=self._memory_format) - 127.5) / 128
        embeddings = self.network(scaled)
        return self.head(embeddings, labels), embeddings.detach()


class PendingStep:
    """A step in the CUDA stream; its loss is copied behind it."""

    def __init__(self, loss: torch.Tensor, window_start: torch.cuda.Event) -> None:
        self._window_start = window_start
        self._loss = torch.empty_like(loss, device="cpu", pin_memory=True)
        self._loss.copy_(loss, non_blocking=True)
        self._ended = torch.cuda.Event(enable_timing=True)
        self._ended.record()

    def wait(self) -> float:
        """Block until the step and the copy of its loss are done; return the loss."""
        self._ended.synchronize()
        return self._loss.item()

    def seconds_since(self, previous: "Optional[PendingStep]") -> float:
        """Device time between the ends of two steps."""
        start = self._window_start if previous is None else previous._ended  # noqa: SLF001
        return start.elapsed_time(self._ended) / 1000


class PyTorchTrainer:
    """`Trainer` of frameworks/common/loop.py on one device."""

    def __init__(self, case: Case, arrays: Dict[str, np.ndarray], dtype: torch.dtype = torch.float32) -> None:
        """Build the case's module; `arrays` holds every parameter and buffer by the table's name."""
        torch.manual_seed(case.seed)  # dropout
        self._case, self._device = case, device(case)
        layers = layers_of(case)
        head = MarginSoftmax(case.loss, case.num_classes, case.embedding_size)
        memory_format = torch.channels_last if uses_channels_last(case) else torch.contiguous_format
        module = TrainingModule(build_network(layers), head, memory_format)
        self.arrays = named_arrays(module)
        self._load(arrays)
        module.to(self._device, dtype=dtype, memory_format=memory_format)
        self.arrays = named_arrays(module)  # the buffers are new objects
        self._module = torch.compile(module) if uses_compile(case) else module
        kinds = {spec.name: spec.kind for spec in parameters(layers)}
        trained = {name: array for name, array in self.arrays.items() if isinstance(array, nn.Parameter)}
        self._optimizer = CaseSGD(trained, {**kinds, CLASSIFIER: "classifier"}, case.optimizer)
        self.phases = Phases(self._synchronize)
        self.start_window()

    def _load(self, arrays: Dict[str, np.ndarray]) -> None:
        with torch.no_grad():
            for name, array in self.arrays.items():
                array.copy_(torch.from_numpy(arrays[name]))

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
        """Both passes: loss, a scalar, and embeddings [B, E]; the gradients are in `arrays`."""
        with self.phases(DATA):
            images, labels = (self._to_device(torch.from_numpy(array)) for array in batch)
        with self.phases(FORWARD_BACKWARD):
            self._optimizer.zero_grad()
            loss, embeddings = self._module(images, labels)
            loss.backward()
        return loss.detach(), embeddings

    def update(self, loss: torch.Tensor, iteration: int) -> Union[PendingStep, FinishedStep]:
        """Update by the last gradients."""
        with self.phases(OPTIMIZER):
            self._optimizer.step(learning_rate(self._case.schedule, iteration))
        if self._device.type == "cuda":
            return PendingStep(loss, self._window_start)
        return FinishedStep(loss.item(), self._window_start)

    def _to_device(self, array: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            return array
        # Only from pinned memory is the copy queued without the host waiting for the stream.
        return array.pin_memory().to(self._device, non_blocking=True)


def device(case: Case) -> torch.device:
    """The device that this rank drives."""
    if case.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", rank_from_environment().local_rank)


def uses_channels_last(case: Case) -> bool:
    """The option `channels_last`; else what is fast on the case's device in float32."""
    return case.options.get("channels_last", case.device == "cpu")


def uses_compile(case: Case) -> bool:
    """The option `compile`; else on CUDA alone, where compiled kernels save memory traffic."""
    return case.options.get("compile", case.device == "cuda")


def configure(case: Case) -> None:
    """Set what is global to the process: threads, device, and what fp32 means."""
    torch.set_num_threads(case.threads_per_device)
    torch.backends.fp32_precision = "tf32" if case.options.get("tf32", False) else "ieee"
    torch.backends.cudnn.benchmark = True  # shapes never change, so the search for algorithms pays
    if case.device == "cuda":
        torch.cuda.set_device(device(case))


def make_trainer(case: Case, rank: Rank) -> PyTorchTrainer:
    """A trainer with the initial weights of the case's seed."""
    return PyTorchTrainer(case, initial_arrays(case, held_classes(case, rank)))


def facts(case: Case) -> Dict[str, Any]:
    """What runs: versions, threads, device, and the options in effect."""
    configure(case)
    found: Dict[str, Any] = {
        "version": torch.__version__,
        "device": case.device,
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last" if uses_channels_last(case) else "contiguous",
        "compiled": uses_compile(case),
        "fp32_precision": torch.backends.fp32_precision,
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
