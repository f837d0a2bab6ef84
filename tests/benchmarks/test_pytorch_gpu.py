"""The comparison of PyTorch's program with the published eager recipe, in its tiny form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pytorch_gpu

ROOT = Path(__file__).parents[2]
RATES = {
    "upstream": [100.0, 110.0, 90.0],
    "dlperf": [300.0, 330.0, 270.0],
    "dlperf_all_rows": [200.0, 220.0, 180.0],
}


def content(rates: dict[str, list[float]]) -> dict[str, Any]:
    given = {"samples_per_second": rates, "flops_per_sample": 1e9, "matmul_flops_per_second": 1e12}
    return {**given, "figures": pytorch_gpu.figures(given), "ratios": pytorch_gpu.ratios(rates)}


def output_of(python: Path | str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [python, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_ratios_are_taken_within_turns_so_that_a_drift_of_the_clock_leaves_them_alone() -> None:
    rows = {(row["over"], row["under"]): row for row in pytorch_gpu.ratios(RATES)}

    assert pytest.approx(3.0) == rows["dlperf", "upstream"]["ratio"]
    assert {"low": pytest.approx(2.0), "high": pytest.approx(2.0)} == (
        rows["dlperf_all_rows", "upstream"]["interval"]
    )


def test_two_turns_have_no_interval() -> None:
    rows = pytorch_gpu.ratios({name: rates[:2] for name, rates in RATES.items()})

    assert {None} == {row["interval"] for row in rows}


TABLES = """\
                  samples/s   spread  model TFLOP/s  of matmul rate
upstream              100.0    20.0%          0.100           10.0%
dlperf                300.0    20.0%          0.300           30.0%
dlperf, all rows      200.0    20.0%          0.200           20.0%

dlperf, all rows / upstream         2.000 (2.000 to 2.000), 3 turns
dlperf / upstream                   3.000 (3.000 to 3.000), 3 turns
dlperf / dlperf, all rows           1.500 (1.500 to 1.500), 3 turns

a step                                    upstream            dlperf                dlperf, all rows
rows that momentum and decay move         all                 the sampled ones      all
gradient with respect to the classifier   all rows            the sampled ones      all rows
angles                                    all logits          the true class        the true class
slope of ArcFace's margin                 left out            as defined            as defined
logits                                    float32             float32               float32
clipping of the network's gradients       norm 5              none                  none
loss read by the host                     in the step         during the next step  during the next step"""


def test_the_tables_hold_speed_ratios_and_what_each_variant_does() -> None:
    assert TABLES == pytorch_gpu.text(content(RATES))


def test_without_a_sample_there_are_two_variants_and_both_move_all_rows() -> None:
    text = pytorch_gpu.text(content({name: RATES[name] for name in ("upstream", "dlperf")}))

    assert "all rows" not in text
    assert "sampled" not in text


@pytest.mark.engine
@pytest.mark.slow
def test_each_variant_moves_the_rows_that_it_says_and_upstreams_loss_is_the_defined_one(
    engine_python: Callable[[str], Path],
) -> None:
    program = ROOT / "tests/benchmarks/programs/variants_semantics.py"

    found = json.loads(output_of(engine_python("pytorch"), program))

    upstream, defined = found["losses"]
    assert pytest.approx(defined, rel=1e-5) == upstream
    assert {"upstream": 1.0, "dlperf": 0.1, "dlperf_all_rows": 1.0} == pytest.approx(found["moved"])


@pytest.mark.engine
@pytest.mark.slow
def test_without_a_gpu_it_runs_small_and_says_that_its_figures_mean_nothing(
    engine_python: Callable[[str], Path], tmp_path: Path
) -> None:
    program, file = ROOT / "benchmarks/pytorch_gpu.py", tmp_path / "gpu.json"
    python = f"--python={engine_python('pytorch')}"

    lines = output_of(sys.executable, program, python, f"--json={file}", "--precision=fp32").splitlines()

    assert "no GPU: figures mean nothing" in lines
    rates = json.loads(file.read_text())["samples_per_second"]
    assert {"upstream", "dlperf", "dlperf_all_rows"} == rates.keys()
    assert all(rate > 0 for each in rates.values() for rate in each)
