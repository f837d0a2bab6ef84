"""What a GPU session asks PyTorch itself, in PyTorch's interpreter, with the repository on PYTHONPATH.

gpu_probe.py facts CASE OUT.json      versions, the device, float32's arithmetic, measured rates
gpu_probe.py compile CASE             fill torch.compile's cache with what the case needs
gpu_probe.py profile CASE OUT.json    where the time of one training step goes, by kernel

CASE is a case file, as `dlperf run` writes it into run folders.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_variants import matmul_rate, seconds, synchronize  # beside this file
from torch.profiler import ProfilerActivity, profile, record_function

from frameworks.common.arithmetic import WrongArithmeticError
from frameworks.common.case import Case, rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.pytorch.precision import set_fp32_precision
from frameworks.pytorch.settings import configure, device, facts, uses_compile
from frameworks.pytorch.train import make_trainer

LISTED = 25  # kernels
WARM_UP = 6  # steps before the profiled one: algorithms, the loss's scale


def facts_of(case: Case) -> dict[str, Any]:
    target = device(case)
    arithmetic = {}
    for name in ("ieee", "tf32"):
        try:
            engine = facts(case._replace(options={**case.options, "tf32": name == "tf32"}))
            arithmetic[name] = engine["fp32_arithmetic"]
        except WrongArithmeticError as error:
            arithmetic[name] = str(error)
    content = {"engine": facts(case), "fp32_arithmetic": arithmetic, "flops_per_second": rates(target)}
    if uses_compile(case):
        content["compile_error"] = compile_error(target)
    if target.type == "cuda":
        properties = torch.cuda.get_device_properties(target)
        content |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
        }
    return content


def compile_error(target: torch.device) -> str:
    """Why torch.compile does not work here, as where a compiler or Python's headers are missing."""
    try:
        torch.compile(lambda values: values * 2 + 1)(torch.ones(8, device=target))
    except Exception as error:  # noqa: BLE001 - of dynamo, inductor, Triton or the compiler
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ""


def rates(target: torch.device) -> dict[str, float]:
    """The best rate of a square product in each arithmetic; the share of a run's FLOP/s is of its own."""
    size = 8192 if target.type == "cuda" else 512
    found = {}
    for name, dtype in (
        ("fp32", torch.float32),
        ("tf32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
    ):
        set_fp32_precision(tf32=name == "tf32")
        found[name] = matmul_rate(target, dtype, size)
    return found


def profile_of(case: Case) -> dict[str, Any]:
    """One step of the trainer of `dlperf run`: its wall time, and the device time of every kernel."""
    trainer = make_trainer(case, rank_from_environment())
    made = batches(case, 0, 2)
    for number in range(WARM_UP):
        trainer.step(made[number % 2], number).wait()
    unprofiled = seconds(lambda: trainer.step(made[0], WARM_UP).wait())
    on_gpu = case.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled, record_function("step"):
        trainer.step(made[1], WARM_UP + 1).wait()
        synchronize()
    rows = [
        {
            "name": event.key[:100],
            "calls": event.count,
            "seconds": (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6,
        }
        for event in profiled.key_averages()
        if event.key != "step" and (not on_gpu or event.device_type == torch.autograd.DeviceType.CUDA)
    ]
    rows.sort(key=lambda row: -row["seconds"])
    return {
        "step_seconds": unprofiled,
        "busy_seconds": sum(row["seconds"] for row in rows),
        "kernels": len(rows),
        "launches": sum(row["calls"] for row in rows),
        "largest": rows[:LISTED],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What a GPU session asks PyTorch itself.")
    parser.add_argument("what", choices=("facts", "compile", "profile"))
    parser.add_argument("case", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    options = parser.parse_args()
    case = read_case(str(options.case))
    configure(case)
    if options.what == "compile":
        make_trainer(case, rank_from_environment())
        return
    content = facts_of(case) if options.what == "facts" else profile_of(case)
    if options.out is None:
        sys.exit("gpu_probe.py: give the file for the answer")
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
