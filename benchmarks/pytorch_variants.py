"""What `benchmarks/pytorch_gpu.py` compares: three ways to train one case, measured in turns in one process.

It runs in PyTorch's own interpreter, and prints one line of JSON: samples/s of every turn of every variant.

- `upstream`: what InsightFace's arcface_torch trains (`train_v2.py` at commit 7fadd42), in our own words.
- `dlperf`: the trainer of `dlperf run`.
- `dlperf_all_rows`: the same, but momentum and weight decay move every row of the classifier, as upstream's
  do. Only Partial FC has it: elsewhere `dlperf` moves every row itself.

What upstream does in a step, all of which is done here:

- a copy of float32 images in a stream of its own, while the step before runs;
- eager, NCHW; autocast around the network but for its last fully connected layer and BatchNorm;
- DistributedDataParallel and a process group also for one device; the network's gradients travel in fp16;
- Partial FC's scores are drawn on the host; the sampled rows are indexed out of the parameter, so that their
  gradient is as large as the whole classifier; SGD moves all its rows;
- normalised embeddings and weights and their product in float32, clamped; the margin by arccos and cos of
  all logits, outside autograd; a softmax written out, with three messages, and a one-hot array for its slope;
- the network's gradients clipped at norm 5; SGD as torch chooses its kernels; GradScaler that grows after
  100 steps; the loss read in every step, and the gradient of the loss in every backward pass.

The loader's work on the host is left out of all variants.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.functional import linear, normalize

from frameworks.common.case import Case, case_from_dict, rank_from_environment
from frameworks.common.cost import model_cost
from frameworks.common.data import BATCHES, Batch, batches
from frameworks.common.initial import CLASSIFIER
from frameworks.common.networks import Flatten, layers_of
from frameworks.common.program import exit_at_once
from frameworks.pytorch.head_sharded import SampledMarginSoftmax
from frameworks.pytorch.network import build_network
from frameworks.pytorch.optimizer import make_optimizer
from frameworks.pytorch.precision import mixed_precision, network_dtype
from frameworks.pytorch.settings import configure, device, facts
from frameworks.pytorch.train import PyTorchTrainer, make_trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIP_NORM = 5.0
MATMUL_REPEATS = 10


class Network(nn.Module):
    """The case's network; autocast ends before its last fully connected layer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        layers = layers_of(case)
        end = next(index for index, layer in enumerate(layers) if isinstance(layer, Flatten)) + 1
        self.body, self.embed = build_network(layers[:end]), build_network(layers[end:])
        self._dtype = network_dtype(case)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float32 images [B, 3, 112, 112] -> float32 embeddings [B, E]."""
        with mixed_precision(images.device, self._dtype):
            maps = self.body(images)
        return self.embed(maps.float())


class Softmax(torch.autograd.Function):
    """Logits [B, C], which it overwrites, and labels int64 [B, 1] -> the mean loss."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        largest = logits.amax(dim=1, keepdim=True)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        exponentials = logits.sub_(largest).exp_()
        total = exponentials.sum(dim=1, keepdim=True)
        dist.all_reduce(total)
        probabilities = exponentials.div_(total)
        inside = torch.where(labels != -1)[0]
        true = torch.zeros(len(labels), 1, device=logits.device)
        true[inside] = probabilities[inside].gather(1, labels[inside])
        dist.all_reduce(true)
        ctx.save_for_backward(inside, probabilities, labels)
        return -true.clamp_min_(1e-30).log_().mean()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        inside, probabilities, labels = ctx.saved_tensors
        one_hot = torch.zeros(len(inside), probabilities.shape[1], device=probabilities.device)
        probabilities[inside] -= one_hot.scatter_(1, labels[inside], 1)
        return probabilities.div_(len(labels)) * gradient.item(), None


class Classifier(nn.Module):
    """Embeddings [B, E] and labels int64 [B] -> the loss over all classes, or over a sample of them."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._loss = case.loss
        self._ratio = case.sample_ratio if case.parallelism == "partial_fc" else 1.0
        self.weight = nn.Parameter(torch.normal(0, 0.01, (case.num_classes, case.embedding_size)))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        labels = labels.view(-1, 1).clone()
        weight = self.weight if self._ratio == 1 else self._sampled(labels)
        logits = linear(normalize(embeddings), normalize(weight)).clamp(-1, 1)
        return Softmax.apply(self._with_margin(logits, labels), labels)

    def _sampled(self, labels: torch.Tensor) -> torch.Tensor:
        """The rows of all positives and of random others; `labels` become columns of them."""
        classes = len(self.weight)
        with torch.no_grad():
            positives = labels.unique()
            index, size = positives, int(self._ratio * classes)
            if size >= len(positives):
                scores = torch.rand(classes).to(labels.device)
                scores[positives] = 2.0
                index = scores.topk(size).indices.sort().values
            labels.copy_(torch.searchsorted(index, labels))
        return self.weight[index]

    def _with_margin(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """ArcFace turns all angles and back, and its margin has no slope; CosFace subtracts."""
        rows = torch.where(labels != -1)[0]
        columns = labels[rows].view(-1)
        if self._loss.m3:
            logits[rows, columns] = logits[rows, columns] - self._loss.m3
        else:
            with torch.no_grad():
                theta = logits.arccos_()
                theta[rows, columns] = theta[rows, columns] + self._loss.m2
                theta.cos_()
        return logits * self._loss.scale


class Loader:
    """Batches on the device without end, float32 images scaled to [-1, 1]: each copied a step ahead."""

    def __init__(self, made: list[Batch], target: torch.device) -> None:
        self._target, self._number = target, 0
        self._on_host = [
            ((torch.from_numpy(images).float() - 127.5) / 127.5, torch.from_numpy(labels))
            for images, labels in made
        ]
        self._stream = None
        if target.type == "cuda":
            self._on_host = [(images.pin_memory(), labels.pin_memory()) for images, labels in self._on_host]
            self._stream = torch.cuda.Stream(target)
        self._copy_next()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            if self._stream is not None:
                torch.cuda.current_stream(self._target).wait_stream(self._stream)
            batch = self._next
            self._copy_next()
            yield batch

    def _copy_next(self) -> None:
        images, labels = self._on_host[self._number % len(self._on_host)]
        self._number += 1
        with torch.cuda.stream(self._stream):  # does nothing where there is none
            self._next = (
                images.to(self._target, non_blocking=True),
                labels.to(self._target, non_blocking=True),
            )


class Upstream:
    """The published eager recipe on one device."""

    def __init__(self, case: Case, made: list[Batch]) -> None:
        target = device(case)
        if not dist.is_initialized():
            backend = "nccl" if target.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        self._network = nn.parallel.DistributedDataParallel(
            Network(case).to(target),
            device_ids=[target.index] if target.type == "cuda" else None,
            broadcast_buffers=False,
            bucket_cap_mb=16,
        )
        self._network.register_comm_hook(None, fp16_compress_hook)
        self._network._set_static_graph()  # noqa: SLF001
        self._classifier = Classifier(case).to(target)
        self._optimizer = torch.optim.SGD(
            [{"params": self._network.parameters()}, {"params": self._classifier.parameters()}],
            lr=case.schedule.learning_rate,
            momentum=case.optimizer.momentum,
            weight_decay=case.optimizer.weight_decay,
        )
        scaled = case.precision == "fp16"
        self._scaler = torch.amp.GradScaler(target.type, growth_interval=100, enabled=scaled)
        self._loader = iter(Loader(made, target))

    def seconds(self, steps: int) -> float:
        return seconds(lambda: [self._step() for _ in range(steps)])

    def _step(self) -> float:
        """One iteration; without GradScaler's help in fp32 and bf16, where it is off."""
        images, labels = next(self._loader)
        loss = self._classifier(self._network(images), labels)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._network.parameters(), CLIP_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return loss.item()


class Ours:
    """The trainer of `dlperf run`; a step's loss is waited for while the next step runs."""

    def __init__(self, trainer: PyTorchTrainer, made: list[Batch]) -> None:
        self._trainer, self._made = trainer, made

    def seconds(self, steps: int) -> float:
        self._trainer.start_window()
        start = time.perf_counter()
        running = self._trainer.step(self._made[0], 0)
        for number in range(1, steps):
            started = self._trainer.step(self._made[number % len(self._made)], number)
            running.wait()
            running = started
        running.wait()
        return time.perf_counter() - start


class AllRowsTrainer(PyTorchTrainer):
    """The trainer of `dlperf run`, but a step updates the rows that it did not sample too."""

    def __init__(self, trainer: PyTorchTrainer) -> None:
        """Take over a trainer of a case with a sample; its own step then works no longer."""
        self.__dict__.update(trainer.__dict__)
        self._head = self._module.head = AllRows(self._head)
        self.trained = {**self.trained, CLASSIFIER: self._head.weight}
        self._optimizer = make_optimizer(self._case, self.trained, self._scaler)
        self.rows = None


class AllRows(nn.Module):
    """The classifier of a sample, whose gradient has every row: 0 where a row was not sampled."""

    def __init__(self, sampled: SampledMarginSoftmax) -> None:
        super().__init__()
        self.weight = nn.Parameter(sampled.weight.detach())
        self._sampler, self._loss_of = sampled._sampler, sampled._loss_of  # noqa: SLF001

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        index = self._sampler(labels).index
        column = torch.searchsorted(index, labels)
        rows = self.weight.index_select(0, index)
        return self._loss_of(embeddings, rows, column, torch.ones_like(labels, dtype=torch.bool))


def variants_of(case: Case) -> dict[str, Upstream | Ours]:
    """By name, in the order of a turn."""
    rank = rank_from_environment()
    made = batches(case, 0, BATCHES)
    variants: dict[str, Upstream | Ours] = {
        "upstream": Upstream(case, made),
        "dlperf": Ours(make_trainer(case, rank, made), made),
    }
    if case.parallelism == "partial_fc":
        variants["dlperf_all_rows"] = Ours(AllRowsTrainer(make_trainer(case, rank, made)), made)
    return variants


def samples_per_second(case: Case, *, steps: int, turns: int) -> dict[str, list[float]]:
    """Of every turn of every variant; every second round of turns goes backwards: A B C C B A."""
    variants = variants_of(case)
    for variant in variants.values():
        variant.seconds(max(2, steps // 2))  # libraries, algorithms, the loss's scale
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(turns):
        order = list(variants) if turn % 2 == 0 else list(reversed(variants))
        for name in order:
            rates[name].append(steps * case.global_batch_size / variants[name].seconds(steps))
    return rates


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def matmul_rate(target: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of the best product of two size x size matrices."""
    left, right = (torch.rand(size, size, device=target).to(dtype) for _ in range(2))
    seconds(lambda: left @ right)  # starts the library
    return 2 * size**3 / min(seconds(lambda: left @ right) for _ in range(MATMUL_REPEATS))


def case_of(options: argparse.Namespace) -> Case:
    small = options.network == "mobilefacenet"
    sampled = options.parallelism == "partial_fc"
    workload = {
        "experiment": "benchmark",
        "network": options.network,
        "head": "GDC" if small else "E",
        "embedding_size": 128 if small else 512,
        "dropout": 0.0,
        "loss": {"kind": "arcface", "scale": 64.0, "m1": 1.0, "m2": 0.5, "m3": 0.0},
        "optimizer": {
            "kind": "sgd", "momentum": 0.9, "weight_decay": 0.0005, "decay": "coupled", "no_decay": [],
        },
        "schedule": {"learning_rate": 0.1, "steps": [], "scales": []},
        "classifier_init_std": 0.01,
    }  # fmt: skip
    return case_from_dict(
        {
            "framework": "pytorch",
            "version": torch.__version__,
            "workload": workload,
            "parallelism": options.parallelism,
            "sample_ratio": options.sample_ratio if sampled else None,
            "precision": options.precision,
            "topology": {"nodes": 1, "devices_per_node": 1},
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "batch_size_per_device": options.batch,
            "num_classes": options.classes,
            "threads_per_device": torch.get_num_threads(),
            "measure": {"warmup_iterations": 0, "measured_iterations": options.steps},
            "seed": 0,
            "options": json.loads(options.options),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Samples/s of three ways to train a case, in turns.")
    parser.add_argument("--network", required=True)
    parser.add_argument("--precision", required=True, choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--parallelism", required=True, choices=("data", "model", "partial_fc"))
    parser.add_argument("--sample-ratio", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--turns", type=int, required=True)
    parser.add_argument("--matmul", type=int, required=True, help="matrices of this size")
    parser.add_argument("--options", default="{}", help="options of the adapter, as JSON")
    options = parser.parse_args()
    case = case_of(options)
    engine = facts(case)
    configure(case)
    content = {
        "engine": engine,
        "flops_per_sample": model_cost(case).training_flops_per_sample,
        "matmul_flops_per_second": matmul_rate(
            device(case), network_dtype(case) or torch.float32, options.matmul
        ),
        "samples_per_second": samples_per_second(case, steps=options.steps, turns=options.turns),
    }
    print(json.dumps(content))


if __name__ == "__main__":
    main()
    exit_at_once(0)  # as the ranks of `dlperf run`: threads of the process group could abort later
