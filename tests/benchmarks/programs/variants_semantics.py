"""What a step of each variant of benchmarks/pytorch_variants.py does to the classifier, as JSON.

`losses`: of upstream's classifier with all classes, and by the definition. `moved`: the share of the
classifier's rows that a step with a sample of 0.1 changed, by variant.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import pytorch_variants as program

from frameworks.common.case import Case, rank_from_environment
from frameworks.common.data import batches
from frameworks.pytorch.head import margin_logits
from frameworks.pytorch.settings import configure
from frameworks.pytorch.train import make_trainer

CLASSES = 1000


def case_of(parallelism: str) -> Case:
    options = argparse.Namespace(
        network="mobilefacenet", precision="fp32", batch=2, classes=CLASSES, parallelism=parallelism,
        sample_ratio=0.1, steps=1, options="{}",
    )  # fmt: skip
    return program.case_of(options)


def losses() -> list[float]:
    case, labels = case_of("data"), torch.tensor([1, 999, 5, 5])
    classifier, embeddings = program.Classifier(case), torch.randn(4, 128)
    logits = margin_logits(case.loss, embeddings, classifier.weight, labels)
    return [classifier(embeddings, labels).item(), cross_entropy(logits, labels).item()]


def moved() -> dict[str, float]:
    case, rank = case_of("partial_fc"), rank_from_environment()
    made = batches(case, 0, 1)
    upstream = program.Upstream(case, made)
    ours, all_rows = make_trainer(case, rank), program.AllRowsTrainer(make_trainer(case, rank))
    steps = {
        "upstream": (upstream._classifier.weight, lambda: upstream.seconds(1)),
        "dlperf": (ours.arrays["classifier.weight"], lambda: program.Ours(ours, made).seconds(1)),
        "dlperf_all_rows": (
            all_rows.trained["classifier.weight"],
            lambda: program.Ours(all_rows, made).seconds(1),
        ),
    }
    shares = {}
    for name, (weight, step) in steps.items():
        before = weight.detach().clone()
        step()
        shares[name] = (weight.detach() != before).any(dim=1).float().mean().item()
    return shares


program.dist.init_process_group("gloo", store=program.dist.HashStore(), rank=0, world_size=1)
configure(case_of("data"))
sys.stdout.write(json.dumps({"losses": losses(), "moved": moved()}))
