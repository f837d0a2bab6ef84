"""What OneFlow compiles: a step of a case, over all ranks."""

from functools import partial
from typing import Callable, Optional, Tuple

import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common.case import Case
from frameworks.oneflow.head import most_positives
from frameworks.oneflow.parallel import REPLICATED
from frameworks.oneflow.sampling import samples_on_host


class TrainingModule(nn.Module):
    """Images uint8 [B, 3, 112, 112] and what the head takes of labels -> what a step is made of.

    That is the loss, what the gradients are those of, and the embeddings float32 [B, E].
    """

    def __init__(self, network: nn.Module, head: nn.Module, dtype: flow.dtype) -> None:
        super().__init__()
        self.network, self.head, self._dtype = network, head, dtype

    def forward(self, images: Tensor, *of_labels: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Scale the images on the device; the network computes in `dtype`, the head in float32."""
        scaled = (images.to(flow.float32) - 127.5) / 128
        embeddings = self.network(scaled.to(self._dtype)).to(flow.float32)
        return (*self.head(embeddings, *of_labels), embeddings.detach())


class TrainingGraph(nn.Graph):
    """The module's loss and embeddings; a call also computes the gradients and updates the parameters."""

    def __init__(self, module: TrainingModule, positives: "Optional[Callable[[Tensor], Tensor]]") -> None:
        """`positives` counts, of the labels int64 [R B], the most classes of a rank that they name."""
        super().__init__()
        self.module, self._positives = module, positives
        self.config.allow_fuse_add_to_output(True)  # noqa: FBT003 - OneFlow's signature
        self.config.allow_fuse_model_update_ops(True)  # noqa: FBT003
        # On CUDA: time cuDNN's algorithms and take the fastest; shapes never change, so the search pays.
        self.config.enable_cudnn_conv_heuristic_search_algo(False)  # noqa: FBT003

    def build(self, images: Tensor, *of_labels: Tensor) -> Tuple[Tensor, ...]:
        """What OneFlow compiles: the loss and the count on every rank, the embeddings each rank's own."""
        loss, whole, embeddings = self.module(images, *of_labels)
        whole.backward()
        outputs = (loss.to_global(sbp=REPLICATED), embeddings)
        if self._positives is None:
            return outputs
        return (*outputs, self._positives(of_labels[0].to_global(sbp=REPLICATED)))


def counted_positives(case: Case) -> "Optional[Callable[[Tensor], Tensor]]":
    """What counts a step's positives, where the device samples: the sampler cuts them off without a word."""
    if case.parallelism != "partial_fc" or samples_on_host(case):
        return None
    return partial(most_positives, num_classes=case.num_classes, ranks=case.world_size)
