"""CASE_FILE..., INPUTS.npz, OUTPUTS.npz: train each case in turn on the inputs of an alignment, as its ranks.

Each process writes a file of its own; `<case>/` precedes the arrays of a case. With Partial FC and a
ratio below 1 it also writes each step's sample, and the rows before and after it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from frameworks.common.align import outputs_name, read_inputs
from frameworks.common.case import Case, Rank, rank_from_environment, read_case
from frameworks.common.initial import CLASSIFIER
from frameworks.mxnet import parallel
from frameworks.mxnet.train import MXNetTrainer

# So that a small network's gradients travel in several groups.
parallel._GROUP_BYTES = 2**20


def trained(case: Case, rank: Rank, ranks: parallel.Ranks, inputs_file: str) -> dict[str, np.ndarray]:
    inputs = read_inputs(inputs_file, case, rank)
    trainer = MXNetTrainer(case, rank, ranks, {**inputs.parameters, **inputs.buffers})
    partial = trainer.head is not None and (case.sample_ratio or 1.0) < 1.0
    losses, found = [], {}
    for iteration, batch in enumerate(inputs.batches):
        before = _rows(trainer) if partial else {}
        losses.append(trainer.step(batch, iteration).wait())
        if partial:
            found.update({f"{iteration}/before/{name}": array for name, array in before.items()})
            found.update({f"{iteration}/after/{name}": array for name, array in _rows(trainer).items()})
            found[f"{iteration}/index"] = trainer.head.shards[0]._index.asnumpy()
    for name, parameter in trainer.trained.items():
        copies = [array.asnumpy() for array in parameter.list_data()]
        assert all((copy == copies[0]).all() for copy in copies), f"{name} differs between devices"
        found[f"parameter/{name}"] = copies[0]
    if trainer.head is not None:
        weights = [shard.weight.asnumpy() for shard in trainer.head.shards]
        found[f"parameter/{CLASSIFIER}"] = np.concatenate(weights)
    running = trainer.arrays["conv1.bn.running_mean"].list_data()
    return {**found, "losses": np.array(losses), "running_mean": np.stack([a.asnumpy() for a in running])}


def _rows(trainer: MXNetTrainer) -> dict[str, np.ndarray]:
    (shard,) = trainer.head.shards
    return {"weight": shard.weight.asnumpy(), "momentum": shard.momentum.asnumpy()}


def main() -> None:
    *case_files, inputs_file, outputs_file = sys.argv[1:]
    rank = rank_from_environment()
    cases = {Path(path).stem: read_case(path) for path in case_files}
    ranks = parallel.join(next(iter(cases.values())), rank)
    found = {}
    for name, case in cases.items():
        arrays = trained(case, rank, ranks, inputs_file)
        found.update({f"{name}/{key}": array for key, array in arrays.items()})
    np.savez(outputs_name(outputs_file, rank.rank), **found)


main()
