"""The margin head alone: INPUTS.npz (embeddings, weight, labels, losses as JSON) -> losses and gradients."""

import json
import sys

import mxnet as mx
import numpy as np

from frameworks.common.case import Loss
from frameworks.mxnet.head import MarginSoftmax


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        embeddings, weight, labels = arrays["embeddings"], arrays["weight"], arrays["labels"]
        losses = json.loads(str(arrays["losses"]))
    results = {}
    for name, loss in losses.items():
        head = MarginSoftmax(Loss(**loss), *weight.shape)
        head.initialize(mx.init.Zero())
        head.weight.set_data(mx.nd.array(weight))
        head.hybridize(static_alloc=True, static_shape=True)
        data = mx.nd.array(embeddings)
        data.attach_grad()
        with mx.autograd.record():
            value = head(data, mx.nd.array(labels, dtype="int32"))
        value.backward()
        results[name + "/whole/loss"] = value.asnumpy()
        results[name + "/whole/embedding_gradient"] = data.grad.asnumpy()
        results[name + "/whole/weight_gradient"] = head.weight.grad().asnumpy()
    np.savez(sys.argv[2], **results)


main()
