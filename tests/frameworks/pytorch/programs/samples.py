"""CASE_FILE: the device's sampler, on CPU, of both ranks over several steps; and one that is too small."""

import sys

import numpy as np
import torch

from frameworks.common.case import Rank, read_case
from frameworks.pytorch.head_sharded import DeviceSampler

STEPS = 20


def main() -> None:
    case, cpu = read_case(sys.argv[1]), torch.device("cpu")
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, case.num_classes, (STEPS, 8)))
    results = {"labels": labels.numpy()}
    for name, number in (("rank0", 0), ("rank1", 1), ("again", 1)):
        sampler = DeviceSampler(case, Rank(number, number, 0, 2, 2, 1, "", 0, None), cpu)
        samples = [sampler(of_step) for of_step in labels]
        results[name] = torch.stack([sample.index for sample in samples]).numpy()
        results[name + "/positives"] = torch.stack([sample.positives for sample in samples]).numpy()
    sampler.size = 2
    small = sampler(torch.arange(case.num_classes))
    results["small"], results["small/positives"] = small.index.numpy(), small.positives.numpy()
    np.savez(sys.argv[2], **results)


main()
