"""A case's module: from uint8 images to the loss, its gradients reduced over the ranks, compiled if asked."""

from contextlib import nullcontext
from typing import ContextManager, Dict, Optional, Tuple, TypeVar

import numpy as np
import torch
from torch import nn

from frameworks.common.case import Case, Rank
from frameworks.common.margin import held_classes
from frameworks.common.networks import INPUT_SHAPE, layers_of
from frameworks.pytorch.head import MarginSoftmax
from frameworks.pytorch.head_sharded import SampledMarginSoftmax, ShardedMarginSoftmax
from frameworks.pytorch.network import build_network, named_arrays
from frameworks.pytorch.parallel import Ranks
from frameworks.pytorch.precision import half_type, mixed_precision
from frameworks.pytorch.sampling import DeviceSampler, HostSampler
from frameworks.pytorch.settings import device, uses_channels_last, uses_compile, uses_cuda_graphs
from frameworks.pytorch.shares import Shares

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Backbone(nn.Module):
    """Images uint8 [B, 3, 112, 112] -> embeddings [B, E] in `dtype`, that of the weights."""

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        half: Optional[torch.dtype],
    ) -> None:
        super().__init__()
        self.network = network
        self._dtype, self._memory_format, self._half = dtype, memory_format, half

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scale the images on the device; under mixed precision the embeddings come back wide."""
        scaled = (images.to(self._dtype, memory_format=self._memory_format) - 127.5) / 128
        with mixed_precision(images.device, self._half):
            embeddings = self.network(scaled)
        return embeddings.to(self._dtype)


class TrainingModule(nn.Module):
    """Images uint8 [B, 3, 112, 112] and labels int64 [B] -> loss, a scalar, and embeddings [B, E]."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """The loss is the mean over the rank's batch in data parallel, else over the global batch."""
        embeddings = self.backbone(images)
        return self.head(embeddings, labels), embeddings.detach()


def build_module(
    case: Case, rank: Rank, ranks: Ranks, arrays: Dict[str, np.ndarray], dtype: torch.dtype
) -> TrainingModule:
    """The case's module on its device; `arrays` holds every parameter and buffer by the table's name."""
    network = build_network(layers_of(case))
    if rank.devices > 1:
        network = Shares(network, rank.devices)
    memory_format = torch.channels_last if uses_channels_last(case) else torch.contiguous_format
    backbone = Backbone(network, dtype, memory_format, half_type(case))
    module = TrainingModule(backbone, _head(case, rank, ranks))
    with torch.no_grad():
        for name, array in named_arrays(module).items():
            array.copy_(torch.from_numpy(arrays[name]))
    return module.to(device(case), dtype=dtype, memory_format=memory_format)


def _head(case: Case, rank: Rank, ranks: Ranks) -> nn.Module:
    if case.parallelism == "data":
        return MarginSoftmax(case.loss, case.num_classes, case.embedding_size)
    held = held_classes(case, rank)
    split = (case.loss, held, case.embedding_size, ranks)
    if case.parallelism == "partial_fc":
        on_cpu = case.device == "cpu"
        sampler = HostSampler(case, rank) if on_cpu else DeviceSampler(case, rank, device(case))
        if sampler.size < len(held):
            return SampledMarginSoftmax(*split, sampler, compiled=uses_compile(case))
    return ShardedMarginSoftmax(*split, compiled=uses_compile(case))


def ready(case: Case, module: TrainingModule, ranks: Ranks) -> nn.Module:
    """The module to call: its replicated gradients reduced over the ranks, and compiled where asked for.

    Over several ranks torch.compile cuts the graph at the buckets of the reduction, so that these travel
    while backward goes on. A split classifier stays outside: it is compiled between its messages.
    """
    if case.parallelism == "data":
        return _compiled(case, ranks.reducing(module, mean=True))
    return TrainingModule(_compiled(case, ranks.reducing(module.backbone, mean=False)), module.head)


def _compiled(case: Case, module: AnyModule) -> AnyModule:
    if not uses_compile(case):
        return module
    return torch.compile(module, dynamic=False, mode="reduce-overhead" if uses_cuda_graphs(case) else None)


def compile_now(case: Case, module: TrainingModule, ranks: Ranks) -> None:
    """Compile what `ready` gave, as torch does at the first call, by a call that leaves no trace.

    So the first step is a step like every other, and no rank waits in a message for another that compiles.
    """
    if not uses_compile(case):
        return
    target, size = device(case), case.batch_size_per_device
    images = torch.zeros(size, *INPUT_SHAPE, dtype=torch.uint8, device=target)
    labels = torch.zeros(size, dtype=torch.int64, device=target)
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    generators = [target] if target.type == "cuda" else []
    with torch.random.fork_rng(generators):
        if case.parallelism == "data":
            with _unsent(module, ranks):
                module(images, labels)[0].backward()
        else:
            with _unsent(module.backbone, ranks):
                module.backbone(images).sum().backward()
            module.head.compile_now(case.global_batch_size)
    for parameter in module.parameters():
        parameter.grad = None
    for buffer, before in buffers:
        buffer.copy_(before)
    ranks.meet("compiled")


def _unsent(module: nn.Module, ranks: Ranks) -> ContextManager[None]:
    return nullcontext() if ranks.size == 1 else module.no_sync()
