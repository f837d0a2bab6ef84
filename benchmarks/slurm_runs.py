"""What a run in a job of Slurm costs beside a run of this machine: `python benchmarks/slurm_runs.py [RUNS]`.

Needs root, slurm-wlm and munge, for the lab of tests. RUNS (default 200) runs of a tiny training in numpy on
one node of one job, everything included, in rounds; after each round the same runs on the same host without a
step of Slurm. The cost of a run is the time from one stored result to the next.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from labs import NetLab, Slurm, SlurmSweepLab, require_lab  # beside this file

ROUNDS = 10


def costs(results: Path) -> list[float]:
    """Seconds from each stored result to the next."""
    times = sorted(path.stat().st_mtime for path in results.glob("runs/*/r*/result.json"))
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    require_lab(slurm=True)
    with NetLab(1) as net, Slurm(net) as slurm:
        lab = SlurmSweepLab(Path(tempfile.mkdtemp(prefix="shared-", dir=net.folder)), slurm=slurm)
        lab.write(measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": runs // ROUNDS + 1})
        command = f"{sys.executable} -m dlperf run tiny.yaml"
        lines = ["#!/bin/sh", f"cd {lab.folder}"]
        for number in range(ROUNDS):
            lines.append(f"{command} --cluster lab --results results/slurm{number} || exit")
            lines.append(f"{command} --results results/local{number} || exit")
        (lab.folder / "job.sh").write_text("\n".join(lines) + "\n")
        subprocess.run(
            ["sbatch", "--wait", "-N1", "--exclusive", f"--output={lab.folder}/log", f"{lab.folder}/job.sh"],
            env=os.environ | lab.environment(),
            check=True,
        )
        print(f"{ROUNDS} rounds of {runs // ROUNDS} runs, load {os.getloadavg()[0]:.1f}")
        medians = []
        for kind in ("slurm", "local"):
            rounds = [costs(lab.folder / "results" / f"{kind}{number}") for number in range(ROUNDS)]
            each = [seconds for one in rounds for seconds in one]
            medians.append(statistics.median(each))
            print(
                f"{kind}: median {medians[-1] * 1000:.0f} ms, least {min(each) * 1000:.0f} ms of {len(each)}"
            )
        print(f"slurm / local = {medians[0] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
