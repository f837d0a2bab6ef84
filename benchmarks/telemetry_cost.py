"""What the sampler costs a run: `python benchmarks/telemetry_cost.py [SWEEP] [-k EXPR]`.

One run of one case (default: PyTorch of the shipped quickstart), in which the sampler is stopped and let go
in turns (SIGSTOP, SIGCONT), a few seconds each. Printed are how much longer a step takes while it samples,
with the 95 % interval over the turns, each beside its two neighbours, and the CPU time that it takes. Its
start, once per run, comes on top and is printed too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from scipy import stats

from dlperf.layout import run_folders
from dlperf.results.extract import extract
from frameworks.node.counters import threads

PROGRAM = "node/telemetry.py"
FEWEST_TURNS = 3


def sampler_below(folder: Path) -> int | None:
    """The process that samples for a run in the folder."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                is_sampler = PROGRAM.encode() in (process / "cmdline").read_bytes()
                if is_sampler and (process / "cwd").resolve().is_relative_to(folder):
                    return int(process.name)
    return None


def cpu_seconds(pid: int) -> float:
    """Of its threads; ProcessLookupError where it has ended."""
    ran = [ran for ran, _ in threads(pid).values()]
    if not ran:
        raise ProcessLookupError
    return sum(ran)


def take_turns(
    run: subprocess.Popen[bytes], folder: Path, seconds: float
) -> tuple[list[tuple[float, bool]], list[float]]:
    """When each turn began, in ms, and whether it sampled; the CPU seconds of each turn that did."""
    while (pid := sampler_below(folder)) is None:
        if run.poll() is not None:
            sys.exit("the run ended before it was sampled")
        time.sleep(0.1)
    time.sleep(1)
    print(f"its start: {cpu_seconds(pid):.3f} s of CPU")
    turns, used, samples = [], [], True
    with suppress(OSError):  # the sampler has ended: so has the run
        while run.poll() is None:
            before = cpu_seconds(pid)
            os.kill(pid, signal.SIGCONT if samples else signal.SIGSTOP)
            turns.append((1000 * time.time(), samples))
            time.sleep(seconds)
            if samples:
                used.append(cpu_seconds(pid) - before)
            samples = not samples
    return turns, used


def main() -> None:
    """Run, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", nargs="?", default="quickstart")
    parser.add_argument("-k", default="framework==pytorch", help="which case")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--turn", type=float, default=3.0, help="seconds of a turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = {
            "measure.repeats": 1,
            "measure.max_interference": 1,
            "measure.measured_iterations": options.steps,
        }
        words = [word for name, value in settings.items() for word in ("-S", f"{name}={value}")]
        command = [sys.executable, "-m", "dlperf", "run", options.sweep, "-k", options.k, *words]
        with subprocess.Popen([*command, "--results", temporary], stdout=subprocess.DEVNULL) as run:
            turns, used = take_turns(run, folder, options.turn)
        (place,) = run_folders(folder)
        steps = [step for step in extract(place).steps if step.kind != "warmup" and step.time_ms is not None]
    # A step counts for a turn that it lies in whole.
    sampled = [
        [step.seconds for step in steps if start <= step.time_ms - 1000 * step.seconds and step.time_ms < end]
        for (start, _), (end, _) in pairwise(turns)
    ]
    # Each turn that sampled beside the mean of the two around it, so that a drift has no part in it.
    pairs = [
        np.log(median(on)) - (np.log(median(before)) + np.log(median(after))) / 2
        for (_, is_on), before, on, after in zip(turns[1:], sampled, sampled[1:], sampled[2:], strict=False)
        if is_on and before and on and after
    ]
    counted = sum(map(len, sampled))
    print(f"sampling: {60 * sum(used) / (options.turn * len(used)):.3f} s of CPU per minute")
    if len(pairs) < FEWEST_TURNS:
        sys.exit(f"only {len(pairs)} turns: more --steps")
    low, high = stats.t.interval(0.95, len(pairs) - 1, loc=np.mean(pairs), scale=stats.sem(pairs))
    print(
        f"a step takes {100 * np.expm1(np.mean(pairs)):+.2f} % ({100 * np.expm1(low):+.2f} to "
        f"{100 * np.expm1(high):+.2f} %) with the sampler: {len(pairs)} turns, {counted} steps"
    )


if __name__ == "__main__":
    main()
