"""A case's module, and the graph that OneFlow compiles from it: a whole step, over all ranks."""

from typing import Callable, Dict, Optional, Tuple

import numpy as np
import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common.case import Case
from frameworks.common.initial import CLASSIFIER
from frameworks.common.networks import layers_of
from frameworks.oneflow.head_sharded import make_head
from frameworks.oneflow.network import build_network, named_arrays, set_norm_dtype
from frameworks.oneflow.parallel import BY_ROWS, REPLICATED, Ranks
from frameworks.oneflow.precision import network_dtype, norm_dtype


class Backbone(nn.Module):
    """Images uint8 [B, 3, 112, 112] -> embeddings float32 [B, E]; the network computes in `dtype`."""

    def __init__(self, network: nn.Module, dtype: flow.dtype) -> None:
        super().__init__()
        self.network, self._dtype = network, dtype

    def forward(self, images: Tensor) -> Tensor:
        """Scale the images on the device."""
        scaled = (images.to(flow.float32) - 127.5) / 128
        return self.network(scaled.to(self._dtype)).to(flow.float32)


class TrainingModule(nn.Module):
    """Images uint8 [B, 3, 112, 112] and what the head takes of the labels -> loss, embeddings [B, E].

    Between them: what is differentiated (`MarginSoftmax`).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor, *of_labels: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """The loss is the mean over the global batch."""
        embeddings = self.backbone(images)
        return (*self.head(embeddings, *of_labels), embeddings.detach())


class TrainingGraph(nn.Graph):
    """The module's loss and embeddings; a call also computes the gradients and updates the parameters."""

    def __init__(self, module: TrainingModule, positives: "Optional[Callable[[Tensor], Tensor]]") -> None:
        """`positives` counts the most classes of one rank that the labels int64 [R B] name."""
        super().__init__()
        self.module, self._positives = module, positives
        self.config.allow_fuse_add_to_output(True)  # noqa: FBT003 - OneFlow's signature
        self.config.allow_fuse_model_update_ops(True)  # noqa: FBT003
        # On CUDA: time cuDNN's algorithms and take the fastest; shapes never change, so searching pays.
        self.config.enable_cudnn_conv_heuristic_search_algo(False)  # noqa: FBT003

    def build(self, images: Tensor, *of_labels: Tensor) -> Tuple[Tensor, ...]:
        """What OneFlow compiles: the loss and the count on every rank, and each rank's own embeddings."""
        loss, differentiated, embeddings = self.module(images, *of_labels)
        differentiated.backward()
        outputs = (loss.to_global(sbp=REPLICATED), embeddings)
        if self._positives is None:
            return outputs
        return (*outputs, self._positives(of_labels[0].to_global(sbp=REPLICATED)))


def make_module(case: Case, ranks: Ranks, arrays: Dict[str, np.ndarray]) -> TrainingModule:
    """The case's module on its ranks; `arrays` holds every parameter and buffer by the table's name."""
    network = build_network(layers_of(case))
    set_norm_dtype(network, norm_dtype(case, ranks.device))
    with flow.no_grad():
        for name, tensor in named_arrays(network).items():
            tensor.copy_(flow.tensor(arrays[name]))
    network = network.to(ranks.device).to_global(placement=ranks.placement, sbp=REPLICATED)
    # A copy: on a CPU the tensor uses the array's memory, and training would change the caller's array.
    own = arrays[CLASSIFIER].copy()
    weight = ranks.spread(own, REPLICATED if case.parallelism == "data" else BY_ROWS)
    return TrainingModule(Backbone(network, network_dtype(case)), make_head(case, weight))
