"""CASE_FILE, INPUTS.npz, OUTPUTS.npz: the split classifier alone, on the devices of one process.

INPUTS: embeddings [R B, E], weight [C, E], labels [R B], rates [K], losses as JSON. For each loss it trains
one step per rate: loss, both gradients, and the weights after the update. With Partial FC also the error for
a batch with too many positives.
"""

from __future__ import annotations

import json
import sys

import mxnet as mx
import numpy as np

from frameworks.common.case import Case, Loss, rank_from_environment, read_case
from frameworks.mxnet.head_sharded import make_head
from frameworks.mxnet.parallel import join


def stepped(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rank = rank_from_environment()
    ranks = join(case, rank)
    head = make_head(case, rank, ranks, arrays["weight"])
    size = case.batch_size_per_device
    embeddings = [
        mx.nd.array(arrays["embeddings"][number * size :][:size], ctx=device)
        for number, device in enumerate(ranks.devices)
    ]
    found = {}
    for step, rate in enumerate(arrays["rates"]):
        loss, by_embeddings = head.gradients(embeddings, arrays["labels"])
        found[f"{step}/loss"] = loss.asnumpy()
        found[f"{step}/by_embeddings"] = np.concatenate([array.asnumpy() for array in by_embeddings])
        found[f"{step}/by_weight"] = np.concatenate([shard.gradient() for shard in head.shards])
        head.update(float(rate))
        found[f"{step}/weight"] = np.concatenate([shard.weight.asnumpy() for shard in head.shards])
    return found


def main() -> None:
    case = read_case(sys.argv[1])
    with np.load(sys.argv[2]) as inputs:
        arrays = dict(inputs)
    found = {}
    for name, loss in json.loads(str(arrays["losses"])).items():
        made = stepped(case._replace(loss=Loss(**loss)), arrays)
        found.update({f"{name}/{key}": array for key, array in made.items()})
    if case.parallelism == "partial_fc":
        arrays["labels"] = np.arange(len(arrays["labels"]))  # all of the first device
        try:
            stepped(case, arrays)
        except ValueError as error:
            found["error"] = np.array(str(error))
    np.savez(sys.argv[3], **found)


main()
