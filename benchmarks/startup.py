"""How long `dlperf --help` takes against an empty Python, in turn, in one run.

    python benchmarks/startup.py [ROUNDS]

Both run in this interpreter's environment. The two alternate, so that a busy machine slows both; the
figure to compare between machines is the ratio of the medians. The aim: --help under 200 ms when it is quiet.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "dlperf --help": [str(Path(sys.executable).with_name("dlperf")), "--help"],
}
HEAVY = ("matplotlib", "numpy", "pandas", "paramiko", "pydantic", "rich", "scipy", "yaml")
LISTING = (
    "import sys; from dlperf.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
)


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds_of(command))
    for name, measured in times.items():
        median, least = statistics.median(measured), min(measured)
        print(f"{name:16} median {1000 * median:6.1f} ms   least {1000 * least:6.1f} ms   ({rounds} runs)")
    medians = [statistics.median(measured) for measured in times.values()]
    print(f"ratio of medians {medians[1] / medians[0]:.1f}")
    loaded = subprocess.run(
        [sys.executable, "-c", LISTING], check=True, capture_output=True, text=True
    ).stdout
    modules = {word.partition(".")[0] for word in loaded.splitlines()[-1].split()}
    print("heavy modules imported by --help:", ", ".join(sorted(modules & set(HEAVY))) or "none")


if __name__ == "__main__":
    main()
