"""At which interference a figure is off by how much: `python benchmarks/interference.py [SWEEP]`.

Runs every case of SWEEP (default: the shipped quickstart) beside other work of several strengths, in turns
with quiet runs, N rounds (default 3). For each run the share of CPU time that others took stands beside the
bias of its figure, against the mean logarithm of the case's quiet runs of the same round and the next. Takes
about 10 minutes a round on two CPU cores, and says nothing on a machine with other work of its own.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from labs import beside  # beside this file

import dlperf

# Processes beside the run, and the share of its time in which each is busy; a quiet run after each.
LEVELS = ((1, 0.01), (1, 0.03), (1, 0.1), (1, 0.3), (1, 1.0), (2, 1.0), (4, 1.0))
BIASES = (0.01, 0.03, 0.1)
PERIOD_SECONDS = 0.05
PROGRAM = """
import sys, time
share, period = map(float, sys.argv[1:])
while True:
    end = time.thread_time() + share * period
    while time.thread_time() < end:
        pass
    time.sleep((1 - share) * period)
"""


def measured(sweep: str, folder: Path) -> pd.DataFrame:
    """One run of each case: its id, framework, rate and interference; disturbed runs have a rate here."""
    lenient = ["-S", "measure.max_interference=1", "-S", "measure.repeats=1"]
    command = [sys.executable, "-m", "dlperf", "run", sweep, "--results", str(folder), *lenient]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [
        {
            "case": run.result.case.case_id,
            "framework": run.result.case.framework,
            "rate": run.result.figures.samples_per_sec,
            "share": run.result.interference.share,
        }
        for run in dlperf.load(folder).results.runs
        if run.result.figures is not None and run.result.interference is not None
    ]
    return pd.DataFrame(rows).set_index("case")


def main() -> None:
    """Measure, print a row per kind of work and the share at which the bias reaches each of BIASES."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", nargs="?", default="quickstart")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found, quiet = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(options.rounds):
            for processes, share in LEVELS:
                quiet.append(measured(options.sweep, Path(temporary) / f"quiet{len(quiet)}"))
                with beside([[sys.executable, "-c", PROGRAM, str(share), str(PERIOD_SECONDS)]] * processes):
                    run = measured(options.sweep, Path(temporary) / f"beside{len(found)}")
                found.append(run.assign(work=f"{processes} x {share:.0%}", round=number))
        quiet.append(measured(options.sweep, Path(temporary) / f"quiet{len(quiet)}"))
    for position, run in enumerate(found):
        level = (np.log(quiet[position]["rate"]) + np.log(quiet[position + 1]["rate"])) / 2
        run["bias"] = 1 - np.exp(np.log(run["rate"]) - level)
    runs = pd.concat(found)
    table = runs.groupby(["framework", "work"], sort=False)[["share", "bias"]].median()
    print(table.to_string(float_format="{:.3f}".format))
    calm = pd.concat(quiet).groupby("framework")["share"].agg(["median", "max"])
    print(f"\nquiet runs, share taken by others:\n{calm.to_string(float_format='{:.4f}'.format)}\n")
    for framework, group in runs.groupby("framework"):
        # What others take slows a run down by at least that: log rate = slope x log(1 - share).
        small = group[group["share"].between(0.002, 0.7)]
        x, y = np.log1p(-small["share"]), np.log1p(-small["bias"])
        slope = float((x * y).sum() / (x * x).sum())
        shares = ", ".join(f"{bias:.0%} at {1 - (1 - bias) ** (1 / slope):.1%}" for bias in BIASES)
        print(f"{framework}: rate ~ (1 - share)^{slope:.2f}; bias {shares}")
    if not math.isfinite(float(table.to_numpy().sum())):
        sys.exit("some runs have no figure")


if __name__ == "__main__":
    main()
