"""The outline of every training program: read the case, log what runs, build, train, log what it took."""

import itertools
import os
import platform
import sys
from typing import Any, Callable, Dict, Iterator, NoReturn, Optional, Sequence

import numpy as np

from frameworks.common.case import Case, Rank, rank_from_environment, read_case
from frameworks.common.cost import model_cost
from frameworks.common.data import Batch, repeated_batches
from frameworks.common.dataset import EXIT_DATA, DataError
from frameworks.common.events import END, START, EventLog
from frameworks.common.loop import Trainer, profile, train
from frameworks.common.peak_memory import AnonymousPeak, device_bytes
from frameworks.common.reading import Batches, OpenReader, split_threads


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
    open_reader: Optional[OpenReader] = None,
) -> None:
    """Run the case file that the first argument names.

    Args:
        make_trainer: builds network, classifier and optimizer, with the initial parameters loaded, for the
            batches that its steps repeat; none where they are read from a data set.
        facts: the engine's version, threads and device, for the log.
        matmul_flops_per_second: the rate of a large float32 matrix product in this engine, on this device.
        allocator_peaks: the peaks of the engine's own allocator on CUDA in bytes, by the event that each is.
        open_reader: the engine's own reader of a data set; None: it has none.

    Raises:
        ValueError: the case has a data set, and the engine no reader.
    """
    case = read_case(sys.argv[1])
    rank = rank_from_environment()
    log = EventLog(rank.rank)
    log.event("init_start", event_type=START)
    versions = {"numpy": np.__version__, "python": platform.python_version()}
    readers = {} if case.data is None else {"reader_threads": split_threads(case).reading}
    log.event("framework", {"name": case.framework, **facts(case), **versions, **readers})
    log.event("global_batch_size", case.global_batch_size)
    log.event("model_cost", model_cost(case)._asdict())
    log.event("matmul_flops_per_second", matmul_flops_per_second(case))
    try:
        made = repeated_batches(case, rank) if case.data is None else ()
        # Before the trainer: processes that read are copies of this one, which is still small.
        reading = None if case.data is None else _opened(case, rank, open_reader)
        batches: Iterator[Batch] = itertools.cycle(made) if reading is None else reading
        trainer = make_trainer(case, rank, made)
        anonymous = AnonymousPeak()
        anonymous.read()  # what building the trainer took, before training maps more of the libraries
        log.event("init_stop", event_type=END)
        train(trainer, case, batches, log, reading=reading)
        _log_peaks(case, log, anonymous, allocator_peaks)
        profile(trainer, case, batches, log)
        if reading is not None:
            reading.close()
    except DataError as error:
        log.data_error(error)
        exit_at_once(EXIT_DATA)


def _opened(case: Case, rank: Rank, open_reader: Optional[OpenReader]) -> Batches:
    if open_reader is None:
        raise ValueError(f"{case.framework} has no reader of data sets")
    return Batches(case, rank, open_reader)


def _log_peaks(
    case: Case,
    log: EventLog,
    anonymous: AnonymousPeak,
    allocator_peaks: "Optional[Callable[[], Dict[str, int]]]",
) -> None:
    """How much memory the process took of its device."""
    if case.device == "cpu":
        peak = anonymous.read()
        log.event("peak_anonymous_bytes", peak, **_unless(peak, "the kernel does not count anonymous memory"))
        return
    used, why = device_bytes()
    log.event("peak_device_bytes", used, **_unless(used, why))
    for name, size in (allocator_peaks() if allocator_peaks is not None else {}).items():
        log.event(name, size)


def _unless(size: Optional[int], why: str) -> Dict[str, str]:
    """Why there is no size, for an event's metadata."""
    return {} if size is not None else {"reason": why}
