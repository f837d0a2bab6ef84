"""`dlperf run` with the original programs of PyTorch and OneFlow, which need a checkout."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from upstream import checkout

from dlperf.adapters.arcface_torch import ADAPTER as ARCFACE_TORCH
from dlperf.adapters.registry import load_adapters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sweep_lab import SweepLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]

WIDE = {
    "network": "iresnet18",
    "head": "E",
    "embedding_size": 512,
    "dropout": 0.2,
    "dataset": "made",
    "num_classes": 10,
    "loss": {"kind": "arcface", "m2": 0.5},
}
SAMPLED = {"parallelism": "partial_fc", "sample_ratio": 0.5, "topology": "1n2g"}


@pytest.fixture
def insightface() -> Path:
    source = ARCFACE_TORCH.source
    return checkout("DLPERF_UPSTREAM_INSIGHTFACE_TORCH", url=source.url, commit=source.commits[0])


@pytest.mark.parametrize(
    ("name", "experiment", "keys", "cases"),
    [
        ("arcface_torch", "pixels", {"include": [SAMPLED]}, 2),
        ("arcface_torch", "wide", {"data": "synthetic"}, 1),
        ("arcface_oneflow", "wide", {}, 1),
    ],
)
def test_the_program_trains_unchanged_but_for_the_edits(
    lab: SweepLab,
    insightface: Path,
    engine_python: Callable[[str], Path],
    name: str,
    experiment: str,
    keys: dict[str, Any],
    cases: int,
) -> None:
    made = lab.dlperf("data", "make", "faces", "--images", "64", "--classes", "10", "--parts", "2")
    assert made.returncode == 0, made.stderr
    version = load_adapters()[name].versions[0]
    entry = {"name": name, "version": version, "python": str(engine_python(name)), "source": str(insightface)}
    lab.write(
        **{
            "experiment": experiment,
            "frameworks": [entry],
            "parallelism": "model",
            "oversubscribe": True,
            "options": {},
            "data": {"path": "faces"},
            "measure": {"warmup_iterations": 1, "measured_iterations": 9, "repeats": 1},
            **keys,
        }
    )
    (lab.folder / "experiments" / "wide.yaml").write_text(yaml.safe_dump(WIDE))
    done = lab.run()
    assert done.returncode == 0, done.stderr
    results = lab.stored()
    assert cases == len(results)
    for result in results:
        assert result.figures is not None
        assert result.figures.samples_per_sec > 0
        assert version == result.engine.facts["version"].partition("+")[0]
    assert lab.logged("+++ b/recognition/")
    changed = ["git", "-C", str(insightface), "status", "--porcelain", "recognition"]
    assert "" == subprocess.check_output(changed, text=True)
