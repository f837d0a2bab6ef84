"""A case's module: from uint8 images to the loss, its gradients reduced over the ranks, compiled if asked."""

from contextlib import nullcontext
from typing import Dict, Optional, Tuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from frameworks.common.case import Case, Rank
from frameworks.common.networks import INPUT_SHAPE, layers_of
from frameworks.pytorch.head_sharded import make_head
from frameworks.pytorch.network import build_network, named_arrays
from frameworks.pytorch.parallel import Ranks
from frameworks.pytorch.precision import gradient_dtype, mixed_precision, network_dtype
from frameworks.pytorch.settings import device, uses_channels_last, uses_compile, uses_cuda_graphs

# Of a function with CUDA graphs: torch compiles it and runs it once as it is, then records its kernels, and
# replays them from the third call on.
_GRAPH_CALLS = 3

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Backbone(nn.Module):
    """Images uint8 [B, 3, 112, 112] -> embeddings [B, E] in `dtype`, that of the weights."""

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        mixed_dtype: Optional[torch.dtype],
    ) -> None:
        super().__init__()
        self.network = network
        self._dtype, self._memory_format, self._mixed_dtype = dtype, memory_format, mixed_dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scale the images on the device; mixed precision computes in `mixed_dtype` in between."""
        scaled = (images.to(self._dtype, memory_format=self._memory_format) - 127.5) / 128
        with mixed_precision(images.device, self._mixed_dtype):
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


class _Shares(nn.Module):
    """A network that one process applies to the shares of several devices, [D B, ...], as if on each of them.

    The alignment's reference stands for all devices like this. The devices share the parameters. Each has its
    own batch and so its own running statistics: the network's buffers become [D, channels].
    """

    def __init__(self, network: nn.Module, devices: int) -> None:
        super().__init__()
        self.network, self._devices = network, devices
        for module in network.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                if name.startswith("running_"):
                    module.register_buffer(name, buffer.repeat(devices, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings [D B, E] in the order of the shares."""
        statistics = {name: all_ for name, all_ in self.network.named_buffers() if ".running_" in name}
        parts = []
        for number, share in enumerate(images.chunk(self._devices)):
            own = {name: all_[number] for name, all_ in statistics.items()}
            parts.append(functional_call(self.network, own, (share,)))
        return torch.cat(parts)


def make_module(
    case: Case, rank: Rank, ranks: Ranks, arrays: Dict[str, np.ndarray], dtype: torch.dtype
) -> TrainingModule:
    """The case's module on its device, which takes every parameter and buffer out of `arrays`.

    They are there by the table's name. The optimizer can then have the memory of the largest.
    """
    network = build_network(layers_of(case))
    if rank.devices > 1:
        network = _Shares(network, rank.devices)
    memory_format = torch.channels_last if uses_channels_last(case) else torch.contiguous_format
    backbone = Backbone(network, dtype, memory_format, network_dtype(case))
    module = TrainingModule(backbone, make_head(case, rank, ranks))
    with torch.no_grad():
        for name, array in named_arrays(module).items():
            array.copy_(torch.from_numpy(arrays.pop(name)))
    return module.to(device(case), dtype=dtype, memory_format=memory_format)


def ready(case: Case, module: TrainingModule, ranks: Ranks) -> nn.Module:
    """The module to call: its replicated gradients are reduced over the ranks; compiled if asked.

    With several ranks torch.compile cuts the graph at the buckets of the reduction, so that they travel
    during the backward pass. A split classifier stays outside: it is compiled between its messages.
    """
    if case.parallelism == "data":
        return _compiled(case, ranks.reducing(module, mean=True, dtype=gradient_dtype(case)))
    backbone = ranks.reducing(module.backbone, mean=False, dtype=gradient_dtype(case))
    return TrainingModule(_compiled(case, backbone), module.head)


def _compiled(case: Case, module: AnyModule) -> AnyModule:
    if not uses_compile(case):
        return module
    return torch.compile(module, dynamic=False, mode="reduce-overhead" if uses_cuda_graphs(case) else None)


def compile_now(case: Case, module: TrainingModule, ranks: Ranks) -> None:
    """Compile what `ready` returned, by calls that leave no trace; torch would do so in the first steps.

    So the first step is like every other, and no rank waits in a message for one that still compiles.
    """
    if not uses_compile(case):
        return
    target, size = device(case), case.batch_size_per_device
    images = torch.zeros(size, *INPUT_SHAPE, dtype=torch.uint8, device=target)
    labels = torch.zeros(size, dtype=torch.int64, device=target)
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    generators = [target] if target.type == "cuda" else []
    whole = case.parallelism == "data"
    part, inputs = (module, (images, labels)) if whole else (module.backbone, (images,))
    with torch.random.fork_rng(generators):
        with nullcontext() if ranks.size == 1 else part.no_sync():  # no message between ranks
            for _ in range(_GRAPH_CALLS if uses_cuda_graphs(case) else 1):
                # As in a step: torch records again if other outputs or gradients are alive than before.
                _drop_gradients(module)
                if uses_cuda_graphs(case):
                    torch.compiler.cudagraph_mark_step_begin()
                outputs = part(*inputs)
                (outputs[0] if whole else outputs.sum()).backward()
        del outputs
        if not whole:
            module.head.compile_now(case.global_batch_size)
    _drop_gradients(module)
    for buffer, before in buffers:
        buffer.copy_(before)
    ranks.wait_for_all("compiled")


def _drop_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None
