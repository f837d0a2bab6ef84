"""The margin heads alone: INPUTS.npz (embeddings, weight, labels, losses as JSON) -> losses and gradients."""

import json
import sys
from types import SimpleNamespace

import jax
import numpy as np

from frameworks.common.case import Loss
from frameworks.jax.head import MarginSoftmax
from frameworks.jax.head_sharded import ShardedMarginSoftmax
from frameworks.jax.parallel import Ranks


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        embeddings, weight, labels = arrays["embeddings"], arrays["weight"], arrays["labels"]
        losses = json.loads(str(arrays["losses"]))
    results, alone = {}, Ranks(1)
    for name, values in losses.items():
        loss = Loss(**values)
        case = SimpleNamespace(loss=loss, num_classes=len(weight), world_size=1)
        heads = {"whole": MarginSoftmax(loss), "sharded": ShardedMarginSoftmax(case, alone)}
        for form, head in heads.items():
            both = jax.jit(jax.value_and_grad(head, argnums=(0, 1)))
            value, (of_embeddings, of_weight) = both(*map(jax.numpy.asarray, (embeddings, weight, labels)))
            results[f"{name}/{form}/loss"] = value
            results[f"{name}/{form}/embedding_gradient"] = of_embeddings
            results[f"{name}/{form}/weight_gradient"] = of_weight
    np.savez(sys.argv[2], **results)


main()
