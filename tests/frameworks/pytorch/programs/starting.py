"""CASE_FILE: build a trainer; how much its process grew at the most meanwhile, in bytes."""

import sys
from pathlib import Path

import numpy as np

from frameworks.common.case import rank_from_environment, read_case
from frameworks.pytorch.train import make_trainer


def resident(name: str) -> int:
    """VmRSS, or the peak VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kib) << 10


def main() -> None:
    case = read_case(sys.argv[1])
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts from here
    before = resident("VmRSS")
    make_trainer(case, rank_from_environment())
    np.savez(sys.argv[2], grown=resident("VmHWM") - before)


main()
