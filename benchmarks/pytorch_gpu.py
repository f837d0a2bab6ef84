"""PyTorch at full speed on a GPU beside an eager recipe: samples/s, model TFLOP/s, ratios with intervals.

.venv/bin/python benchmarks/pytorch_gpu.py [--network NAME] [--precision P] [--batch N] [--classes N] ...

Three ways to train the same network on the same batches take turns in one process, A B C C B A, so that a
drift of the clock meets all alike. `benchmarks/pytorch_variants.py` says what each of them does:

- upstream: the eager recipe that InsightFace publishes for arcface_torch, with all that its step does;
- dlperf: the program of `dlperf run`, which trains what docs/workloads.md defines;
- dlperf, all rows: the same, but like upstream it moves all rows of the classifier, not the sampled ones.

So "dlperf, all rows / upstream" compares like with like, and "dlperf / dlperf, all rows" is what the
definition itself saves. The intervals are over the ratios within a turn (docs/statistics.md).

Without a GPU a tiny form runs on the CPU, so that the programs can be tested. Its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlperf.adapters.base import TF32_VARIABLE
from dlperf.plan.machine import detect_machine
from dlperf.statistics.basic import quantile, t_interval

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "benchmarks" / "pytorch_variants.py"

TITLES = {"upstream": "upstream", "dlperf": "dlperf", "dlperf_all_rows": "dlperf, all rows"}
RATIOS = (("dlperf_all_rows", "upstream"), ("dlperf", "upstream"), ("dlperf", "dlperf_all_rows"))
# What a step does beside both passes through the same network: upstream, dlperf, dlperf with all rows.
SEMANTICS = (
    ("rows that momentum and decay move", "all", "the sampled ones", "all"),
    ("gradient with respect to the classifier", "all rows", "the sampled ones", "all rows"),
    ("angles", "all logits", "the true class", "the true class"),
    ("slope of ArcFace's margin", "left out", "as defined", "as defined"),
    ("logits", "float32", "float32", "float32"),
    ("clipping of the network's gradients", "norm 5", "none", "none"),
    ("loss read by the host", "in the step", "during the next step", "during the next step"),
)


@dataclass(frozen=True)
class Size:
    """What is run when nothing is said."""

    network: str
    precision: str
    batch: int
    classes: int
    steps: int
    turns: int
    matmul: int


ON_GPU = Size("iresnet100", "fp16", 64, 85744, 20, 6, 8192)
ON_CPU = Size("mobilefacenet", "bf16", 2, 100, 1, 1, 512)


def measured(python: str, options: argparse.Namespace) -> dict[str, Any]:
    """What `pytorch_variants.py` prints, in PyTorch's interpreter."""
    values = {name: value for name, value in vars(options).items() if name not in {"python", "json"}}
    tf32 = json.loads(options.options).get("tf32", False)
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    done = subprocess.run(
        [python, str(PROGRAM), *arguments],
        # As adapters set it for a rank, so that fp32 is the same as in `dlperf run`.
        env={**os.environ, "PYTHONPATH": str(ROOT), TF32_VARIABLE: "1" if tf32 else "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{PROGRAM.name} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def ratios(rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Of two variants, from their ratio within each turn; no interval with fewer than three turns."""
    rows = []
    for over, under in RATIOS:
        if not {over, under} <= rates.keys():
            continue
        paired = [a / b for a, b in zip(rates[over], rates[under], strict=True)]
        interval = t_interval(paired)
        rows.append(
            {
                "over": over,
                "under": under,
                "ratio": quantile(paired, 0.5),
                "interval": None if interval is None else asdict(interval),
                "turns": len(paired),
            }
        )
    return rows


def figures(content: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per variant."""
    rows = []
    for name, rates in content["samples_per_second"].items():
        rate = quantile(rates, 0.5)
        flops = rate * content["flops_per_sample"]
        rows.append(
            {
                "variant": name,
                "samples_per_second": rate,
                "spread": (max(rates) - min(rates)) / rate,
                "model_flops_per_second": flops,
                "share_of_matmul_rate": flops / content["matmul_flops_per_second"],
            }
        )
    return rows


def text(content: dict[str, Any]) -> str:
    """The tables that a person reads."""
    sampled = "dlperf_all_rows" in content["samples_per_second"]
    speeds = (
        f"{TITLES[row['variant']]:17}{row['samples_per_second']:10.1f}{row['spread']:9.1%}"
        f"{row['model_flops_per_second'] / 1e12:15.3f}{row['share_of_matmul_rate']:16.1%}"
        for row in content["figures"]
    )
    steps = [("a step", *TITLES.values()), *SEMANTICS]
    if not sampled:  # both variants move all rows
        steps = [row[:-1] for row in steps if "the sampled ones" not in row]
    return "\n".join(
        [
            f"{'':17}{'samples/s':>10}{'spread':>9}{'model TFLOP/s':>15}{'of matmul rate':>16}",
            *speeds,
            "",
            *map(_ratio_line, content["ratios"]),
            "",
            *(f"{row[0]:42}{row[1]:20}{''.join(f'{cell:22}' for cell in row[2:])}".rstrip() for row in steps),
        ]
    )


def _ratio_line(row: dict[str, Any]) -> str:
    interval = row["interval"]
    between = "" if interval is None else f" ({interval['low']:.3f} to {interval['high']:.3f})"
    name = f"{TITLES[row['over']]} / {TITLES[row['under']]}"
    return f"{name:36}{row['ratio']:.3f}{between}, {row['turns']} turns"


def own_python() -> str:
    """The interpreter of the default environment of PyTorch."""
    command = [sys.executable, "-m", "dlperf", "env", "path", "pytorch"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip() or sys.exit("no environment: give --python, or `dlperf env create pytorch`")


def main() -> None:
    machine = detect_machine()
    size = ON_CPU if machine.gpu is None else ON_GPU
    parser = argparse.ArgumentParser(description="PyTorch's full speed beside an eager recipe.")
    parser.add_argument("--python", help="interpreter with PyTorch; default: that of dlperf's environment")
    parser.add_argument("--network", default=size.network)
    parser.add_argument("--precision", default=size.precision, choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--batch", type=int, default=size.batch)
    parser.add_argument("--classes", type=int, default=size.classes)
    parser.add_argument("--parallelism", default="partial_fc", choices=("data", "model", "partial_fc"))
    parser.add_argument("--sample-ratio", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=size.steps, help="iterations per turn")
    parser.add_argument("--turns", type=int, default=size.turns)
    parser.add_argument("--matmul", type=int, default=size.matmul, help="size of the matrices of the rate")
    parser.add_argument("--options", default="{}", help="options of the adapter, as JSON")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    asked = {name: value for name, value in vars(options).items() if name not in {"python", "json"}}
    content = {"asked": asked, **measured(options.python or own_python(), options)}
    content |= {"figures": figures(content), "ratios": ratios(content["samples_per_second"])}
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    engine = content["engine"]
    name = engine.get("device_name", "CPU")
    print(f"{name}, PyTorch {engine['version']}, {', '.join(f'{k} {v}' for k, v in asked.items())}")
    if engine["device"] == "cpu":
        print("no GPU: figures mean nothing")
    rate = content["matmul_flops_per_second"]
    print(f"matmul of {options.matmul} in {options.precision}: {rate / 1e12:.3f} TFLOP/s\n")
    print(text(content))


if __name__ == "__main__":
    main()
