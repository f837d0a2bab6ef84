"""A case's graph: from uint8 images to the loss or, with a split classifier, to the embeddings."""

from typing import Any, Dict

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from frameworks.common.case import Case
from frameworks.common.networks import layers_of, parameters
from frameworks.mxnet.network import build_network, named_arrays
from frameworks.mxnet.parallel import Ranks
from frameworks.mxnet.precision import network_dtype
from frameworks.mxnet.settings import prelu_form


class Backbone(HybridBlock):
    """Images uint8 [B, 3, 112, 112] -> embeddings float32 [B, E]; the network computes in `dtype`."""

    def __init__(self, network: HybridBlock, dtype: str) -> None:
        super().__init__(prefix="")
        self.network, self._dtype = network, dtype

    def hybrid_forward(self, F: Any, images: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym."""
        scaled = (F.cast(images, "float32") - 127.5) / 128
        if self._dtype == "float32":
            return self.network(scaled)
        return F.cast(self.network(F.cast(scaled, self._dtype)), "float32")


class TrainingModule(HybridBlock):
    """Images uint8 [B, 3, 112, 112] and labels int32 [B] -> loss float32 [1], and embeddings [B, E]."""

    def __init__(self, backbone: HybridBlock, head: HybridBlock) -> None:
        super().__init__(prefix="")
        self.backbone, self.head = backbone, head

    def hybrid_forward(self, F: Any, images: Any, labels: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym; no gradient flows back through the embeddings."""
        embeddings = self.backbone(images)
        return self.head(embeddings, labels), F.stop_gradient(embeddings)


def make_module(case: Case, ranks: Ranks, arrays: Dict[str, np.ndarray], head: Any) -> HybridBlock:
    """The case's graph on its devices: a TrainingModule, or a Backbone if the head is split.

    `arrays` holds every parameter and buffer by the table's name.
    """
    layers, dtype = layers_of(case), network_dtype(case)
    network = build_network(layers, prelu_form(case))
    backbone = Backbone(network, dtype)
    module = TrainingModule(backbone, head) if isinstance(head, HybridBlock) else backbone
    named = named_arrays(module)
    for name, parameter in named.items():
        # Only the gammas that are fixed at 1 are not in the table.
        parameter.initialize(mx.init.Zero() if name in arrays else mx.init.One(), ctx=ranks.devices)
        if name in arrays:
            parameter.set_data(mx.nd.array(arrays[name], dtype="float32"))
    if dtype != "float32":
        network.cast(dtype)  # except its BatchNorms
    for spec in parameters(layers):
        named[spec.name].wd_mult = 0.0 if spec.kind in case.optimizer.no_decay else 1.0
    module.hybridize(static_alloc=True, static_shape=True)
    return module
