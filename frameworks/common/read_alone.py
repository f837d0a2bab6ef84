"""The outline of every engine's reader without training: `python -m frameworks.<framework>.data CASE_FILE`.

It reads as many batches as the case has iterations, with all threads of the device, and prints how long the
measured ones took. With two more
arguments, OUTPUTS.npz and COUNT, it writes the first COUNT batches instead.
"""

import sys

import numpy as np

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.dataset import EXIT_DATA, DataError
from frameworks.common.events import EventLog
from frameworks.common.program import exit_at_once
from frameworks.common.reading import Batches, OpenReader


def run(open_reader: OpenReader) -> None:
    """Read the data set of the case file that the first argument names."""
    case, rank = read_case(sys.argv[1]), rank_from_environment()
    log = EventLog(rank.rank)
    try:
        batches = Batches(case, rank, open_reader, threads=case.threads_per_device)
        if len(sys.argv) > 2:  # noqa: PLR2004
            outputs, count = sys.argv[2], int(sys.argv[3])
            images, labels = zip(*(next(batches) for _ in range(count)))
            np.savez(outputs, images=np.stack(images), labels=np.stack(labels))
        else:
            for _ in range(case.warmup_iterations):
                next(batches)
            before = batches.counters()
            for _ in range(case.measured_iterations):
                next(batches)
            images_read = case.measured_iterations * case.batch_size_per_device * rank.devices
            found = {"images": images_read, "reader_threads": case.threads_per_device}
            log.event("reader_alone", {**found, **batches.since(before)})
        batches.close()
    except DataError as error:
        log.data_error(error)
        exit_at_once(EXIT_DATA)
