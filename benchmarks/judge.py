"""How often dlperf's verdicts are wrong on a disturbed machine: `python benchmarks/judge.py [--trials N]`.

Each trial runs a sweep of two versions of tests/thirdparty's framework, interleaved, 5 runs each, beside
busy loops that come and go at random. It asks for the winner of the row and for the verdict of `dlperf
compare`. The versions are equal (A/A), or one does 5 or 10 % more work in every step. Wrong is a winner or a
change in A/A, and otherwise the slower version as the winner or as the faster one. A trial takes about half a
minute on two CPU cores, longer where disturbed runs run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from labs import SweepLab, beside  # beside this file

import dlperf
from dlperf.plan.case import DEFAULT_MAX_INTERFERENCE
from dlperf.results.cases import standings
from dlperf.results.schema import Status

LOADS = (0, 1, 2, 4, 8)
PLANTS = {"A/A": "+same", "5 %": "+slower5", "10 %": "+slower"}
# Mean length of the stretches in which a loop is busy, and of those in which it sleeps.
MEAN_SECONDS = 3.0
LOOP = """
import random, sys, time
stream, mean = random.Random(sys.argv[1]), float(sys.argv[2])
time.sleep(stream.uniform(0, mean))
while True:
    end = time.monotonic() + stream.expovariate(1 / mean)
    while time.monotonic() < end:
        pass
    time.sleep(stream.expovariate(1 / mean))
"""
# A run's measured window of about 2 s on one CPU.
MEASURE = {"warmup_iterations": 2, "measured_iterations": 40, "repeats": 5}
WORK = 100


def trial(load_: int, ending: str, seed: int, max_interference: float) -> dict[str, Any]:
    """Run one sweep and judge it."""
    base = np.__version__
    with tempfile.TemporaryDirectory() as temporary:
        lab = SweepLab(Path(temporary))
        with lab.stack:
            versions = [base, base + ending]
            versions = versions[:: (-1) ** seed]  # neither is always first in its block
            lab.write(
                frameworks=[{"name": "numpy", "version": one, "python": sys.executable} for one in versions],
                options={"work": WORK},
                measure={**MEASURE, "max_interference": max_interference},
            )
            loop = [sys.executable, "-c", LOOP]
            with beside([*loop, f"{seed} {number}", str(MEAN_SECONDS)] for number in range(load_)):
                lab.run()
            asked = ("--in", "results/tiny", "--metric", "samples_per_sec", "--format", "json")
            sides = (f"framework=numpy=={base}", f"framework=numpy=={base}{ending}")
            compared = lab.dlperf("compare", *sides, *asked)
            verdicts = [row["verdict"] for row in json.loads(compared.stdout)["findings"]]
            runs = [run.result for run in dlperf.load(lab.results).results.runs]
            return {
                "winner": winner(lab),
                "verdict": verdicts[0] if verdicts else "none",
                "disturbed": sum(result.status is Status.DISTURBED for result in runs),
            }


def winner(lab: SweepLab) -> str:
    """The version that a report calls the fastest of its row; empty where it calls none so."""
    ((_, standing),) = standings(dlperf.load(lab.results).figures)
    return "" if standing.winner is None else standing.winner.split(" ")[1]


def main() -> None:
    """Run the trials and print a row per load and plant."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20, help="of each load and each plant")
    parser.add_argument("--loads", type=int, nargs="+", default=LOADS)
    parser.add_argument("--plants", nargs="+", default=list(PLANTS), choices=list(PLANTS))
    parser.add_argument("--max-interference", type=float, default=DEFAULT_MAX_INTERFERENCE)
    options = parser.parse_args()
    print(
        "loops  plant  trials  winner named  wrong  change named  wrong  undecided  disturbed runs",
        flush=True,
    )
    for busy in options.loads:
        for plant in options.plants:
            counts: Counter[str] = Counter()
            for number in range(options.trials):
                found = trial(
                    busy, PLANTS[plant], seed=1000 * busy + number, max_interference=options.max_interference
                )
                slower = np.__version__ + PLANTS[plant]
                named, changed = bool(found["winner"]), found["verdict"] in {"slower", "faster"}
                counts["winner"] += named
                counts["wrong winner"] += named and (plant == "A/A" or found["winner"] == slower)
                counts["change"] += changed
                counts["wrong change"] += changed and (plant == "A/A" or found["verdict"] == "faster")
                counts["undecided"] += not named and not changed
                counts["disturbed"] += found["disturbed"]
            print(
                f"{busy:5}  {plant:>5}  {options.trials:6}  {counts['winner']:12}  {counts['wrong winner']:5}"
                f"  {counts['change']:12}  {counts['wrong change']:5}  {counts['undecided']:9}"
                f"  {counts['disturbed']:14}",
                flush=True,
            )


if __name__ == "__main__":
    main()
