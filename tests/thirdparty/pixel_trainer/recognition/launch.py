"""Starts train.py twice, as launchers do; both print into one output."""

import os
import subprocess
import sys

RANKS = 2


def main():
    processes = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            env={**os.environ, "TRAINER_RANK": str(rank), "TRAINER_RANKS": str(RANKS)},
            start_new_session=True,
        )
        for rank in range(RANKS)
    ]
    return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main())
