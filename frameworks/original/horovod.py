"""Starts a program that uses Horovod as one of its ranks, in place of `horovodrun`, which binds no CPUs.

    python -m frameworks.original.horovod train_memory.py --models-root models

The rank's place is in its environment (DLPERF_RANK, ...). The ranks meet as those of dlperf's own loop do,
before the program begins; its own `hvd.init()` finds Horovod ready.
"""

import sys

from frameworks.common.case import rank_from_environment
from frameworks.mxnet.rendezvous import RendezvousError, meet
from frameworks.original import script


def main() -> None:
    """Meet the other ranks, then run the program."""
    try:
        meet(rank_from_environment())
    except RendezvousError as error:
        sys.exit(str(error))
    script.run(sys.argv[1:])


if __name__ == "__main__":
    main()
