"""Events in MLPerf's logging format, one line per event on standard output.

Keys that MLPerf defines have its meaning (init_start, init_stop, run_start, run_stop, global_batch_size,
tracked_stats). docs/formats.md lists all keys.
"""

import json
import math
import sys
import time
from typing import Any, Optional

from frameworks.common.dataset import DataError

PREFIX = ":::MLLOG "
POINT, START, END = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"


class EventLog:
    """Writes the events of one rank.

    Each line is flushed, as a run may be killed at any moment, and is one write with its line end: others
    write to the same log (an engine's own threads, worker processes), and print() would let them in between.
    """

    def __init__(self, rank: int, stream: Any = None) -> None:
        self._rank = rank
        self._stream = stream or sys.stdout

    def event(self, key: str, value: Any = None, event_type: str = POINT, **metadata: Any) -> None:
        """Print one event; this rank's number is added to `metadata`."""
        line = {
            "namespace": "dlperf",
            "time_ms": int(time.time() * 1000),
            "event_type": event_type,
            "key": key,
            "value": value,
            "metadata": {"rank": self._rank, **metadata},
        }
        self._stream.write(PREFIX + json.dumps(line, allow_nan=False) + "\n")
        self._stream.flush()

    def step(
        self,
        step: int,
        samples: int,
        seconds: float,
        loss: Optional[float],
        kind: str,
        *,
        iterations: int = 1,
    ) -> None:
        """Print one finished iteration: `step` from 0, `samples` over all ranks, `kind` warmup or train.

        Where a program shows averages alone, it is several `iterations`, of which `step` is the last.
        """
        finite = loss is not None and math.isfinite(loss)
        value = {"throughput": samples / seconds, "seconds": seconds, "loss": loss if finite else None}
        if loss is not None and not finite:
            value["loss_text"] = str(loss)  # JSON has no NaN
        more = {} if iterations == 1 else {"iterations": iterations}
        self.event("tracked_stats", value, step=step, samples=samples, kind=kind, **more)

    def data_error(self, error: DataError) -> None:
        """Print which image cannot be read."""
        value = {"file": error.file, "record": error.record, "offset": error.offset, "what": error.what}
        self.event("data_error", value)
