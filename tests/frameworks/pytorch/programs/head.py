"""The margin heads alone: INPUTS.npz (embeddings, weight, labels, losses as JSON) -> losses and gradients."""

import json
import sys

import numpy as np
import torch

from frameworks.common.case import Loss
from frameworks.common.phases import Phases
from frameworks.pytorch.head import MarginSoftmax
from frameworks.pytorch.head_sharded import ShardedMarginSoftmax
from frameworks.pytorch.parallel import Ranks


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        embeddings, weight, labels = arrays["embeddings"], arrays["weight"], arrays["labels"]
        losses = json.loads(str(arrays["losses"]))
    results, alone = {}, Ranks(1, Phases(lambda: None))
    for name, values in losses.items():
        loss = Loss(**values)
        heads = {
            "whole": MarginSoftmax(loss, *weight.shape),
            "sharded": ShardedMarginSoftmax(loss, range(weight.shape[0]), weight.shape[1], alone),
        }
        for form, head in heads.items():
            with torch.no_grad():
                head.weight.copy_(torch.from_numpy(weight))
            data = torch.from_numpy(embeddings).clone().requires_grad_()
            value = head(data, torch.from_numpy(labels))
            value.backward()
            results[f"{name}/{form}/loss"] = value.detach().numpy()
            results[f"{name}/{form}/embedding_gradient"] = data.grad.numpy()
            results[f"{name}/{form}/weight_gradient"] = head.weight.grad.numpy()
    np.savez(sys.argv[2], **results)


main()
