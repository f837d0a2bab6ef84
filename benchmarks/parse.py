"""How fast logs are parsed, beside the approach of the 2021 extraction scripts and `grep -c`.

python benchmarks/parse.py [--megabytes 100] [--dialect NAME]... [--memory]

Each dialect gets a generated log. `2021` reads all lines and searches two patterns a line, as those scripts
did; its records hold two numbers, ours seven fields. CPU seconds of one process, the best of three, so that
other load on the machine counts less. `--memory` parses the log in a process of its own and prints its
largest resident set.
"""

# ruff: noqa: E501, S311  lines of logs are long; the numbers need no cryptography

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.importing.archives import open_logs
from dlperf.importing.dialects import load_dialects
from dlperf.importing.reader import LogReader

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 3


def clock(step: int) -> str:
    return f"2021-07-06 {step // 3600 % 24:02d}:{step // 60 % 60:02d}:{step % 60:02d},{step * 7 % 1000:03d}"


def arcface(step: int, rate: float, loss: float) -> str:
    return (
        f"Training: {clock(step)}-Speed {rate * 8:.2f} samples/sec   Loss {loss:.4f}   LearningRate 0.1000   "
        f"Epoch: {step // 5000}   Global Step: {step * 50}   Fp16 Grad Scale: 65536   Required: 33 hours"
    )


def paddle(step: int, rate: float, loss: float) -> str:
    return (
        f"Training: {clock(step)} - loss {loss:.4f}, lr: 0.100000, epoch: {step // 5000}, step: {step * 50}, "
        f"eta: 12.34 hours, throughput: {rate * 8:.2f} imgs/sec"
    )


def mllog(step: int, rate: float, loss: float) -> str:
    value = {"throughput": rate, "seconds": 64 / rate, "loss": loss}
    metadata = {"rank": 0, "step": step, "samples": 64, "kind": "train"}
    content = {
        "namespace": "dlperf", "time_ms": 1_600_000_000_000 + step, "event_type": "POINT_IN_TIME",
        "key": "tracked_stats", "value": value, "metadata": metadata,
    }  # fmt: skip
    return ":::MLLOG " + json.dumps(content)


# Dialect: how a line is made, and what the 2021 approach would look for: a word, iteration, rate.
LINES: dict[str, tuple[Callable[[int, float, float], str], str, str, str]] = {
    "oneflow_face": (
        lambda step, rate, loss: f"train: iter {step}, loss {loss:.5f}, throughput: {rate:.3f}",
        "train: iter", r"train: iter (.*), loss", r"throughput: (.*)",
    ),
    "arcface_torch": (arcface, "Speed", r"Global Step: (\d+)", r"Speed (\d+\.\d+) samples/sec"),
    "insightface_mxnet": (
        lambda step, rate, loss: (
            f"INFO:root:Epoch[{step // 5000}] Batch [{step % 5000 * 20}]\tSpeed: {rate:.2f} samples/sec\t"
            f"acc={loss / 100:.6f}\tlossvalue={loss:.6f}"
        ),
        "INFO:root:Epoch[", r"Batch \[(\d+)\]", r"Speed: (\d+\.\d+) samples/sec",
    ),
    "partial_fc_mxnet": (
        lambda step, rate, loss: (
            f"rank-id:0:{clock(step)}-Iter:{step * 20} Rank:{rate:.2f} it/sec Total:{rate * 8:.2f} it/sec "
            f"[{step // 5000}][loss]:{loss:.2f} "
        ),
        "Rank:", r"Iter:(\d+)", r"Total:(\d+\.\d+) it/sec",
    ),
    "arcface_paddle": (paddle, "throughput", r"step: (\d+)", r"throughput: (\d+\.\d+) imgs/sec"),
    "dllogger": (
        lambda step, rate, loss: (
            f"DLL 2020-02-24 {clock(step)[11:].replace(',', '.')}000 - Epoch: {step // 5000} Iteration: {step}  "
            f"train.loss : {loss:.5f} train.ips : {rate:.2f} images/s "
        ),
        "train.ips", r"Iteration: (\d+)", r"train.ips : (\d+\.\d+)",
    ),
    "mllog": (mllog, "tracked_stats", r'"step": (\d+)', r'"throughput": (\d+\.\d+)'),
}  # fmt: skip


def generate(path: Path, *, dialect: str, megabytes: int) -> None:
    generator = random.Random(1)
    line = LINES[dialect][0]
    step = 0
    with path.open("w") as stream:
        while stream.tell() < megabytes * 1_000_000:
            stream.writelines(
                line(number, generator.uniform(240, 250), generator.uniform(1, 45)) + "\n"
                for number in range(step, step + 10_000)
            )
            step += 10_000


def as_in_2021(path: Path, *, dialect: str) -> int:
    _line, word, iteration_pattern, rate_pattern = LINES[dialect]
    found = []
    with path.open() as stream:
        lines = stream.readlines()
    for line in lines:
        if word in line:
            iteration = int(re.findall(re.compile(iteration_pattern), line)[0])
            rate = float(re.findall(re.compile(rate_pattern, re.DOTALL), line)[0])
            found.append((iteration, rate))
    return len(found)


def ours(path: Path, *, dialect: str) -> int:
    del dialect  # it is found by sniffing, as with `--dialect auto`
    dialects = list(load_dialects().values())
    return sum(len(batch) for log in open_logs(path) for batch in LogReader(log, dialects=dialects))


def grep(path: Path, *, dialect: str) -> int:
    made = subprocess.run(["grep", "-cF", LINES[dialect][1], str(path)], check=True, capture_output=True)
    return int(made.stdout)


def measured(function: Callable[..., int], path: Path, *, dialect: str) -> float:
    """Records a CPU second."""
    best = 0.0
    for _ in range(RUNS):
        before = cpu_seconds()
        count = function(path, dialect=dialect)
        best = max(best, count / (cpu_seconds() - before))
    return best


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def memory(path: Path) -> None:
    # VmHWM belongs to the program; ru_maxrss would remember this process too.
    program = (
        "import re, sys, time; sys.path.insert(0, sys.argv[1]); import parse; from pathlib import Path\n"
        "start = time.perf_counter(); count = parse.ours(Path(sys.argv[2]), dialect='')\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(count, time.perf_counter() - start, int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)"
    )
    here = str(Path(__file__).resolve().parent)
    made = subprocess.run(
        [sys.executable, "-c", program, here, str(path)], check=True, capture_output=True, text=True
    )
    count, seconds, mebibytes = made.stdout.split()
    size = path.stat().st_size / 1e6
    print(f"  {size:.0f} MB, {count} records in {float(seconds):.1f} s: at most {mebibytes} MiB resident")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--dialect", action="append", choices=list(LINES))
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    print(
        f"{'dialect':<18} {'bytes a line':>12} {'2021':>9} {'dlperf':>9} {'grep -c':>9}  thousand records a CPU second"
    )
    with tempfile.TemporaryDirectory() as folder:
        for dialect in arguments.dialect or list(LINES):
            path = Path(folder) / f"{dialect}.log"
            generate(path, dialect=dialect, megabytes=arguments.megabytes)
            lines = grep(path, dialect=dialect)
            rates = [
                measured(function, path, dialect=dialect) / 1000 for function in (as_in_2021, ours, grep)
            ]
            columns = " ".join(f"{rate:9.0f}" for rate in rates)
            print(
                f"{dialect:<18} {path.stat().st_size / lines:12.0f} {columns}  {rates[1] / rates[0]:.1f}x of 2021"
            )
            if arguments.memory:
                memory(path)
            path.unlink()


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s")
