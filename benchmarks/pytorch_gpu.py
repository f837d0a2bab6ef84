"""PyTorch at full speed on a GPU beside an eager recipe: samples/s, model TFLOP/s, share of the matmul rate.

PYTHONPATH=. PYTHON benchmarks/pytorch_gpu.py [--network NAME] [--batch N] [--classes N] [--parallelism P] ...

PYTHON is the interpreter of the PyTorch environment (`dlperf env create pytorch`). Both train the same
network on the same batches in one process, in turns, and the median round counts:

- dlperf: the trainer of `dlperf run` (channels_last, torch.compile, fused SGD, the loss of a step read while
  the next one runs). The classifier's product is taken in TF32, whose mantissa is that of the recipe's fp16.
- recipe: what InsightFace publishes for arcface_torch, written anew: eager, NCHW, autocast around the network
  but for its last fully connected layer, products of the classifier in fp16, GradScaler, gradients of the
  backbone clipped to 5, SGD as torch chooses it, the loss read in every step. The published margin takes the
  arccos of all logits, this one that of the true class alone: the recipe is made no slower than it need be.

Without a GPU a tiny form runs on the CPU, so that the program can be tested. Its figures mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize

from frameworks.common.case import Case, case_from_dict, rank_from_environment
from frameworks.common.cost import model_cost
from frameworks.common.data import BATCHES, Batch, batches
from frameworks.common.margin import COSINE_LIMIT
from frameworks.common.networks import Flatten, layers_of
from frameworks.pytorch.network import build_network
from frameworks.pytorch.precision import network_dtype
from frameworks.pytorch.settings import configure, device
from frameworks.pytorch.train import PyTorchTrainer, make_trainer

if TYPE_CHECKING:
    from collections.abc import Callable

CLIP_NORM = 5.0


@dataclass(frozen=True)
class Size:
    """What is run when nothing is said."""

    network: str
    precision: str
    batch: int
    classes: int
    steps: int
    rounds: int
    matmul: int


ON_GPU = Size("iresnet100", "fp16", 128, 85744, 30, 5, 8192)
ON_CPU = Size("mobilefacenet", "bf16", 4, 100, 1, 1, 512)


class Recipe:
    """The eager recipe on one device; ArcFace, all classes or a sample of them."""

    def __init__(self, case: Case) -> None:
        self._case, self._device, self._half = case, device(case), network_dtype(case)
        layers = layers_of(case)
        cut = next(at for at, layer in enumerate(layers) if isinstance(layer, Flatten)) + 1
        self._body = build_network(layers[:cut]).to(self._device)
        self._embed = build_network(layers[cut:]).to(self._device)
        self._weight = nn.Parameter(
            torch.normal(0, 0.01, (case.num_classes, case.embedding_size), device=self._device)
        )
        self._backbone = [*self._body.parameters(), *self._embed.parameters()]
        sgd = case.optimizer
        self._optimizer = torch.optim.SGD(
            [*self._backbone, self._weight],
            lr=case.schedule.learning_rate,
            momentum=sgd.momentum,
            weight_decay=sgd.weight_decay,
        )
        self._scaler = torch.amp.GradScaler(
            self._device.type, growth_interval=100, enabled=case.precision == "fp16"
        )
        self._ready: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def step(self, batch: Batch) -> float:
        """One iteration, its loss read at the end."""
        images, labels = self._on_device(batch)
        with torch.autocast(self._device.type, dtype=self._half):
            maps = self._body(images)
        embeddings = self._embed(maps.float())
        loss = self._loss(embeddings, labels)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._backbone, CLIP_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return loss.item()

    def _loss(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weight = self._weight
        if self._case.parallelism == "partial_fc":
            index = self._sample(labels)
            weight, labels = weight[index], torch.searchsorted(index, labels)
        with torch.autocast(self._device.type, dtype=self._half):
            cosines = linear(normalize(embeddings), normalize(weight))
        cosines = cosines.float()
        column = labels.unsqueeze(1)
        true = cosines.gather(1, column).clamp(-COSINE_LIMIT, COSINE_LIMIT)
        loss = self._case.loss
        target = torch.cos(loss.m1 * torch.arccos(true) + loss.m2) - loss.m3
        return cross_entropy(cosines.scatter(1, column, target) * loss.scale, labels)

    def _sample(self, labels: torch.Tensor) -> torch.Tensor:
        """All positives and random others; how many positives there are is read by the host."""
        classes = self._case.num_classes
        positives = labels.unique()
        size = max(len(positives), int((self._case.sample_ratio or 1.0) * classes))
        scores = torch.rand(classes, device=self._device)
        scores[positives] = 2.0
        return scores.topk(size).indices.sort().values

    def _on_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised float32 images, as its loader gives them; made once, as the loader's workers would."""
        if id(batch[0]) not in self._ready:
            images = (torch.from_numpy(batch[0]).float() - 127.5) / 128
            labels = torch.from_numpy(batch[1])
            if self._device.type == "cuda":
                images, labels = images.pin_memory(), labels.pin_memory()
            self._ready[id(batch[0])] = images, labels
        images, labels = self._ready[id(batch[0])]
        return images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


def case_of(options: argparse.Namespace, kind: str) -> Case:
    network = options.network
    loss = {"kind": "arcface", "scale": 64.0, "m1": 1.0, "m2": 0.5, "m3": 0.0}
    sgd = {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0005, "decay": "coupled", "no_decay": []}
    sampled = options.parallelism == "partial_fc"
    workload = {
        "experiment": "benchmark", "network": network, "head": "GDC" if network == "mobilefacenet" else "E",
        "embedding_size": 128 if network == "mobilefacenet" else 512, "dropout": 0.0, "loss": loss,
        "optimizer": sgd, "schedule": {"learning_rate": 0.1, "steps": [], "scales": []},
        "classifier_init_std": 0.01,
    }  # fmt: skip
    return case_from_dict(
        {
            "framework": "pytorch", "version": torch.__version__, "workload": workload,
            "parallelism": options.parallelism, "sample_ratio": options.sample_ratio if sampled else None,
            "precision": options.precision, "topology": {"nodes": 1, "devices_per_node": 1}, "device": kind,
            "batch_size_per_device": options.batch, "num_classes": options.classes,
            "threads_per_device": torch.get_num_threads(),
            "measure": {"warmup_iterations": 0, "measured_iterations": options.steps}, "seed": 0,
            "options": {"tf32": kind == "cuda", "cuda_graphs": options.cuda_graphs},
        }
    )  # fmt: skip


def ours(trainer: PyTorchTrainer, made: list[Batch], steps: int) -> float:
    """Seconds of `steps` iterations, each waited for when the next one is queued, as in `dlperf run`."""
    trainer.start_window()
    start = time.perf_counter()
    running = trainer.step(made[0], 0)
    for number in range(1, steps):
        started = trainer.step(made[number % len(made)], number)
        running.wait()
        running = started
    running.wait()
    return time.perf_counter() - start


def theirs(recipe: Recipe, made: list[Batch], steps: int) -> float:
    start = time.perf_counter()
    for number in range(steps):
        recipe.step(made[number % len(made)])
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_rate(case: Case, size: int) -> float:
    """FLOP/s of the best of ten products of two size x size matrices in the case's precision."""
    dtype = network_dtype(case) or torch.float32
    left, right = (torch.rand(size, size, device=device(case)).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(11):
        synchronize()
        start = time.perf_counter()
        product = left @ right
        synchronize()
        best = min(best, time.perf_counter() - start)
    del product
    return 2 * size**3 / best


def compare(case: Case, options: argparse.Namespace, matmul: float) -> None:
    made = batches(case, 0, BATCHES)
    trainer, recipe = make_trainer(case, rank_from_environment()), Recipe(case)
    contestants: dict[str, Callable[[int], float]] = {
        "dlperf": lambda steps: ours(trainer, made, steps),
        "recipe": lambda steps: theirs(recipe, made, steps),
    }
    for run in contestants.values():
        run(max(1, options.steps // 3))  # libraries, algorithms, the loss's scale
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, run in contestants.items():
            seconds[name].append(run(options.steps))
    flops = model_cost(case).training_flops_per_sample
    print(f"{'':8} {'samples/s':>10} {'spread':>8} {'model TFLOP/s':>14} {'of matmul rate':>15}")
    for name, times in seconds.items():
        rates = [options.steps * case.global_batch_size / each for each in times]
        rate = statistics.median(rates)
        spread = (max(rates) - min(rates)) / rate
        print(
            f"{name:8} {rate:10.1f} {spread:8.1%} {rate * flops / 1e12:14.3f} {rate * flops / matmul:15.1%}"
        )


def main() -> None:
    size = ON_GPU if torch.cuda.is_available() else ON_CPU
    parser = argparse.ArgumentParser(description="PyTorch's full speed beside an eager recipe.")
    parser.add_argument("--network", default=size.network)
    parser.add_argument("--precision", default=size.precision, choices=("fp16", "bf16"))
    parser.add_argument("--batch", type=int, default=size.batch)
    parser.add_argument("--classes", type=int, default=size.classes)
    parser.add_argument("--parallelism", default="data", choices=("data", "model", "partial_fc"))
    parser.add_argument("--sample-ratio", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=size.steps)
    parser.add_argument("--rounds", type=int, default=size.rounds)
    parser.add_argument("--cuda-graphs", action="store_true")
    options = parser.parse_args()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    case = case_of(options, kind)
    configure(case)
    name: Any = torch.cuda.get_device_name() if kind == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {vars(options)}")
    if kind == "cpu":
        print("no GPU: figures mean nothing")
    matmul = matmul_rate(case, size.matmul)
    print(f"matmul of {size.matmul} in {case.precision}: {matmul / 1e12:.3f} TFLOP/s")
    compare(case, options, matmul)


if __name__ == "__main__":
    main()
