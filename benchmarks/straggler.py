"""How well the slow one of two ranks is named: `python benchmarks/straggler.py [--rounds N]`.

Each round trains PyTorch and MXNet on two CPU devices, with equal ranks and with rank 1 slowed by a third: it
is stopped and continued so that it runs for three quarters of the time, as by cpulimit(1). Prints how often
which rank was named, and how much slower it was. A round takes about a minute on two quiet cores; under
`chrt -r 1` also on busy ones.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from straggler_cost import SWEEP  # beside this file

import dlperf

if TYPE_CHECKING:
    from collections.abc import Iterator

MEASURED = """\
measure: {warmup_iterations: 5, measured_iterations: 40, repeats: 1, max_interference: 1}
limits: {time: 15m, stall: 5m}
"""
# Shorter than a step, so that every step is slow.
RUN_SECONDS, STOP_SECONDS = 0.015, 0.005


@contextmanager
def slowed(folder: Path, rank: int) -> Iterator[None]:
    """Stop and continue the processes that train as `rank` in `folder`."""
    over = threading.Event()
    thread = threading.Thread(target=_stop_and_continue, args=(folder, rank, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _stop_and_continue(folder: Path, rank: int, over: threading.Event) -> None:
    if os.sched_getscheduler(0) == os.SCHED_RR:  # under `chrt -r 1`: the ranks leave it no CPU
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    process = None
    while not over.wait(RUN_SECONDS):
        process = process or _process(folder, rank)
        if process is None:
            continue
        try:
            os.kill(process, signal.SIGSTOP)
            time.sleep(STOP_SECONDS)
            os.kill(process, signal.SIGCONT)
        except ProcessLookupError:
            process = None


def _process(folder: Path, rank: int) -> int | None:
    """The process that trains as `rank` in `folder`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if bytes(folder) in words and b".train" in words and f"DLPERF_RANK={rank}".encode() in variables:
            return int(process.name)
    return None


def measured(sweep: Path, folder: Path) -> Iterator[dict[str, object]]:
    """A run of each framework: what it says of its ranks."""
    command = [sys.executable, "-m", "dlperf", "run", str(sweep), "--results", str(folder)]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in {0, 3}:  # 3: a run was unsteady
        sys.exit(f"dlperf run: exit code {done.returncode}")
    for run in dlperf.load(folder).results.runs:
        times, interference = run.result.rank_times, run.result.interference
        if times is not None and interference is not None:
            yield {
                "framework": run.result.case.framework,
                "interference": interference.share,
                "named": times.slowest_rank if times.is_straggler else None,
                "slowest": times.slowest_rank,
                "excess": times.excess,
                "share": times.slowest_in / times.steps,
            }


def main() -> None:
    """Measure, and print a row per framework and kind of run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        sweep = Path(temporary) / "two.yaml"
        sweep.write_text(SWEEP + MEASURED, encoding="utf-8")
        for number in range(rounds):
            folder = sweep.parent / f"equal{number}"
            rows += [{"ranks": "equal", **row} for row in measured(sweep, folder)]
            folder = sweep.parent / f"slowed{number}"
            with slowed(folder, rank=1):
                rows += [{"ranks": "slowed", **row} for row in measured(sweep, folder)]
            print(pd.DataFrame(rows).tail(4).to_string(), file=sys.stderr)
    runs = pd.DataFrame(rows)
    runs["rank 0"], runs["rank 1"] = runs["named"] == 0, runs["named"] == 1
    groups = runs.groupby(["framework", "ranks"])
    table = groups.agg(
        runs=("excess", "size"),
        named_0=("rank 0", "sum"),
        named_1=("rank 1", "sum"),
        excess=("excess", "median"),
        largest=("excess", "max"),
    )
    print(table.to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
