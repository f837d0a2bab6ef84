"""Starts a program that uses every GPU that it sees, so that it sees as many as its case has.

    python -m frameworks.original.first_devices 2 python train.py --network r50

Of the GPUs in the user's CUDA_VISIBLE_DEVICES the first count, as for dlperf's own ranks; of all, if there
are none.
"""

import os
import sys


def first_devices(count: int, visible: "str | None") -> str:
    """CUDA_VISIBLE_DEVICES for the first `count` of the devices in `visible`; None or empty means all."""
    chosen = [name.strip() for name in visible.split(",")] if visible else [str(i) for i in range(count)]
    return ",".join(chosen[:count])


def main() -> None:
    """Set the variable and become the program."""
    count, *argv = sys.argv[1:]
    os.environ["CUDA_VISIBLE_DEVICES"] = first_devices(int(count), os.environ.get("CUDA_VISIBLE_DEVICES"))
    os.execvp(argv[0], argv)  # noqa: S606 - an argument list, without a shell


if __name__ == "__main__":
    main()
