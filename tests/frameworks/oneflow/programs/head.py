"""The margin head alone: INPUTS.npz (embeddings, weight, labels, losses as JSON) -> losses and gradients."""

import json
import sys

import numpy as np
import oneflow as flow

from frameworks.common.case import Loss
from frameworks.oneflow.head import MarginSoftmax


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        embeddings, weight, labels = arrays["embeddings"], arrays["weight"], arrays["labels"]
        losses = json.loads(str(arrays["losses"]))
    results = {}
    for name, loss in losses.items():
        head = MarginSoftmax(Loss(**loss), flow.tensor(weight))
        data = flow.tensor(embeddings, requires_grad=True)
        value, whole = head(data, flow.tensor(labels))
        whole.backward()
        results[name + "/whole/loss"] = value.numpy()
        results[name + "/whole/embedding_gradient"] = data.grad.numpy()
        results[name + "/whole/weight_gradient"] = head.weight.grad.numpy()
    np.savez(sys.argv[2], **results)


main()
