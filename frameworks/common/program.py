"""The outline of every training program: read the case, log what runs, build, train, log what it took."""

import os
import platform
import resource
import sys
from typing import Any, Callable, Dict, NoReturn, Optional

import numpy as np

from frameworks.common.case import Case, Rank, rank_from_environment, read_case
from frameworks.common.cost import model_cost
from frameworks.common.data import endless_batches
from frameworks.common.events import END, START, EventLog
from frameworks.common.loop import Trainer, profile, train


def peak_resident_bytes() -> int:
    """The largest resident set of this process so far, in bytes; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def exit_at_once(code: int) -> NoReturn:
    """End this process after writing out its output, without shutting down the interpreter."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(
    make_trainer: "Callable[[Case, Rank], Trainer]",
    facts: "Callable[[Case], Dict[str, Any]]",
    matmul_flops_per_second: "Callable[[Case], float]",
    peak_device_bytes: "Callable[[Case], Optional[int]]",
) -> None:
    """Run the case file that the first argument names.

    Args:
        make_trainer: builds network, classifier and optimizer, with the initial parameters loaded.
        facts: the engine's version, threads and device, for the log.
        matmul_flops_per_second: the rate of a large float32 matrix product in this engine, on this device.
        peak_device_bytes: the device allocator's peak; None if the device uses the process's own memory.
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
    trainer = make_trainer(case, rank)
    log.event("init_stop", event_type=END)
    batches = endless_batches(case, rank)
    train(trainer, case, batches, log, rank.local_rank)
    device_bytes = peak_device_bytes(case)
    if device_bytes is None:
        log.event("peak_memory_bytes", peak_resident_bytes(), source="resident set")
    else:
        log.event("peak_memory_bytes", device_bytes, source="device allocator")
    profile(trainer, case, batches, log)
