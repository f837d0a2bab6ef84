"""The outline of every training program: read the case, log what runs, build, train, log what it took."""

import itertools
import os
import platform
import sys
from typing import Any, Callable, Dict, NoReturn, Optional, Sequence

import numpy as np

from frameworks.common.case import Case, Rank, rank_from_environment, read_case
from frameworks.common.cost import model_cost
from frameworks.common.data import Batch, repeated_batches
from frameworks.common.events import END, START, EventLog
from frameworks.common.loop import Trainer, profile, train
from frameworks.common.peak_memory import AnonymousPeak, device_bytes


def exit_at_once(code: int) -> NoReturn:
    """End this process after writing out its output, without shutting down the interpreter."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(
    make_trainer: "Callable[[Case, Rank, Sequence[Batch]], Trainer]",
    facts: "Callable[[Case], Dict[str, Any]]",
    matmul_flops_per_second: "Callable[[Case], float]",
    allocator_peaks: "Optional[Callable[[], Dict[str, int]]]" = None,
) -> None:
    """Run the case file that the first argument names.

    Args:
        make_trainer: builds network, classifier and optimizer, with the initial parameters loaded, for the
            batches that its steps repeat.
        facts: the engine's version, threads and device, for the log.
        matmul_flops_per_second: the rate of a large float32 matrix product in this engine, on this device.
        allocator_peaks: the peaks of the engine's own allocator on CUDA in bytes, by the event that each is.
    """
    case = read_case(sys.argv[1])
    rank = rank_from_environment()
    log = EventLog(rank.rank)
    log.event("init_start", event_type=START)
    versions = {"numpy": np.__version__, "python": platform.python_version()}
    log.event("framework", {"name": case.framework, **facts(case), **versions})
    log.event("global_batch_size", case.global_batch_size)
    log.event("model_cost", model_cost(case)._asdict())
    log.event("matmul_flops_per_second", matmul_flops_per_second(case))
    made = repeated_batches(case, rank)
    trainer = make_trainer(case, rank, made)
    anonymous = AnonymousPeak()
    anonymous.read()  # what building the trainer took, before training maps more of the libraries
    log.event("init_stop", event_type=END)
    batches = itertools.cycle(made)
    train(trainer, case, batches, log, rank.local_rank)
    if case.device == "cpu":
        peak = anonymous.read()
        log.event("peak_anonymous_bytes", peak, **_unless(peak, "the kernel does not count anonymous memory"))
    else:
        used, why = device_bytes()
        log.event("peak_device_bytes", used, **_unless(used, why))
        for name, size in (allocator_peaks() if allocator_peaks is not None else {}).items():
            log.event(name, size)
    profile(trainer, case, batches, log)


def _unless(size: Optional[int], why: str) -> Dict[str, str]:
    """Why there is no size, for an event's metadata."""
    return {} if size is not None else {"reason": why}
