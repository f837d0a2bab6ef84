"""Time and peak memory of a sweep on many nodes: `python benchmarks/sim.py [CASES] [NODES]`.

Plans, runs and reports CASES cases (default 10 000) of one run each on NODES nodes (default 1 000), as a user
does, in a temporary folder. The nodes are doubles (tests/simulated_nodes.py): the results are invented, time
and memory of dlperf are not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """\
experiment: r100_emore
frameworks: [mxnet==1.9.1, pytorch]
topology: [1n1g, 1n8g, 2n8g, 4n8g]
batch_size_per_device: {batches}
threads_per_device: 8
device: cuda
measure: {{repeats: 1, warmup_iterations: 5, measured_iterations: 20}}
"""
CLUSTER = {"devices": 8, "cores": 64}
SIMULATION = {"oom": 0.01, "hang": 0.01, "cut_log": 0.01, "node_loss": 0.001, "slow_nodes": 0.05}
DLPERF_ON_DOUBLES = (
    sys.executable,
    str(Path(__file__).parents[1] / "tests" / "simulated_nodes.py"),
    json.dumps(SIMULATION),
)
CASES_A_BATCH = 8


def measured(folder: Path, *arguments: str) -> None:
    """Run dlperf and print what it took."""
    start = time.perf_counter()
    with (folder / "out.txt").open("wb") as out:
        process = subprocess.Popen([*DLPERF_ON_DOUBLES, *arguments], stdout=out, stderr=out, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 3):  # some runs fail on purpose
        raise SystemExit(
            f"dlperf {' '.join(arguments)} ended with {code}: {(folder / 'out.txt').read_text()[-500:]}"
        )
    print(
        f"{' '.join(arguments)[:60]:60} {wall:7.1f} s wall, {usage.ru_utime + usage.ru_stime:7.1f} s CPU, "
        f"{usage.ru_maxrss / 1024:5.0f} MiB"
    )


def main() -> None:
    cases, nodes = (int(word) for word in (*sys.argv[1:], "10000", "1000")[:2])
    batches = list(range(1, cases // CASES_A_BATCH + 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sweep.yaml").write_text(SWEEP.format(batches=batches))
        names = [f"sim{number}" for number in range(1, nodes + 1)]
        (folder / "nodes.yaml").write_text(json.dumps(CLUSTER | {"nodes": names}))  # JSON is YAML
        print(f"{len(batches) * CASES_A_BATCH} cases on {nodes} nodes, load {os.getloadavg()[0]:.1f}")
        measured(folder, "plan", "sweep.yaml", "--cluster", "nodes.yaml", "--format", "json")
        measured(folder, "run", "sweep.yaml", "--cluster", "nodes.yaml")
        measured(folder, "run", "sweep.yaml", "--cluster", "nodes.yaml")  # only what a lost node left
        measured(folder, "report", "results/sweep")


if __name__ == "__main__":
    main()
