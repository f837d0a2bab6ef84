"""The margin head alone: INPUTS.npz (embeddings, weight, labels, losses as JSON) -> losses and gradients."""

import json
import sys

import numpy as np
import torch

from frameworks.common.case import Loss
from frameworks.pytorch.head import MarginSoftmax


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        embeddings, weight, labels = arrays["embeddings"], arrays["weight"], arrays["labels"]
        losses = json.loads(str(arrays["losses"]))
    results = {}
    for name, loss in losses.items():
        head = MarginSoftmax(Loss(**loss), *weight.shape)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
        data = torch.from_numpy(embeddings).clone().requires_grad_()
        value = head(data, torch.from_numpy(labels))
        value.backward()
        results[name + "/loss"] = value.detach().numpy()
        results[name + "/embedding_gradient"] = data.grad.numpy()
        results[name + "/weight_gradient"] = head.weight.grad.numpy()
    np.savez(sys.argv[2], **results)


main()
