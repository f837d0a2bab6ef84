"""CASE_FILE, OUTPUTS: some steps of a small network with the case's classifier, by one of several ranks.

OUTPUTS.RANK.npz: labels of all steps, and after each step the loss, the rank's embeddings, its class weights
and their momentum.
"""

from __future__ import annotations

import sys

import numpy as np
import oneflow as flow

from frameworks.common.case import Case, Rank, rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.common.initial import CLASSIFIER, initial_classifier
from frameworks.common.margin import held_classes
from frameworks.common.networks import INPUT_SHAPE, Flatten, Linear
from frameworks.oneflow.head_sharded import HostSamples, make_head
from frameworks.oneflow.model import Backbone, TrainingGraph, TrainingModule
from frameworks.oneflow.network import build_network, named_arrays
from frameworks.oneflow.optimizer import Momentum, Share, add_optimizers, momentum_buffers
from frameworks.oneflow.parallel import AS_SUM, BY_ROWS, REPLICATED, Ranks, join, own_part
from frameworks.oneflow.precision import make_scaler
from frameworks.oneflow.rendezvous import run_and_leave

STEPS = 4


def make_module(case: Case, rank: Rank, ranks: Ranks) -> TrainingModule:
    flow.manual_seed(1)
    layers = (Flatten("flatten"), Linear("linear", int(np.prod(INPUT_SHAPE)), case.embedding_size))
    network = build_network(layers).to_global(placement=ranks.placement, sbp=REPLICATED)
    held = held_classes(case, rank)
    weight = initial_classifier(held.start, held.stop, case.embedding_size, 0.1, case.seed)
    head = make_head(case, ranks.spread(weight, BY_ROWS))
    return TrainingModule(Backbone(network, flow.float32), head)


def main() -> None:
    case, rank = read_case(sys.argv[1]), rank_from_environment()
    ranks, sampler = join(case, rank), HostSamples(case, rank)
    module = make_module(case, rank, ranks)
    arrays = named_arrays(module)
    weight = arrays.pop(CLASSIFIER)
    shares = [Share([weight], case.optimizer.weight_decay, sparse=True), Share(list(arrays.values()), 0.0)]
    graph = TrainingGraph(module, None)
    add_optimizers(graph, case.optimizer, case.schedule, shares)
    if sys.argv[3:] == ["scaled"]:
        graph.set_grad_scaler(make_scaler(case._replace(precision="fp16")))

    def inputs(images: np.ndarray, columns: np.ndarray, index: np.ndarray) -> list[flow.Tensor]:
        spread = ((images, BY_ROWS), (columns, AS_SUM), (index, BY_ROWS))
        return [ranks.spread(own, sbp) for own, sbp in spread]

    given = batches(case, rank.rank, STEPS)
    graph._compile(*inputs(given[0][0], *sampler.example()))
    momentum = Momentum(graph, case.schedule)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("loss", "embeddings", "weight", "momentum")}
    found["weight"].append(own_part(weight).numpy().copy())
    for step, (images, labels) in enumerate(given):
        momentum.follow(step)
        loss, embeddings = graph(*inputs(images, *sampler.sample(ranks.everyones(labels))))
        now = {"loss": loss, "embeddings": embeddings, "weight": weight}
        now["momentum"] = momentum_buffers(graph)["module.head.weight"]
        for name, array in now.items():
            found[name].append(own_part(array).numpy().copy())
    np.savez(f"{sys.argv[2]}.{rank.rank}.npz", labels=[labels for _, labels in given], **found)


run_and_leave(main)
