"""Ranks that leave with output unwritten and a function to call when the interpreter ends."""

import atexit

import torch

from frameworks.common.case import rank_from_environment
from frameworks.common.phases import Phases
from frameworks.pytorch.parallel import join
from frameworks.pytorch.rendezvous import run_and_leave


def main() -> None:
    atexit.register(print, "the interpreter ends")
    ranks = join(rank_from_environment(), torch.device("cpu"), Phases(lambda: None))
    ranks.sum_(torch.ones(1))
    print("trained")  # noqa: T201


run_and_leave(main)
