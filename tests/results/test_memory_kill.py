"""A rank that the kernel killed for lack of memory is told from one that was killed otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from run_folders import make_case, write_run

from dlperf.results.extract import extract
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from pathlib import Path

KILLED: dict[str, Any] = {"rank": 0, "exit_code": None, "signal": 9, "seconds": 3.0}
ITS_GROUP = "rank 0 was ended by SIGKILL: the kernel ended it for lack of memory"
A_PROCESS = "rank 0 ended with exit code 1: the kernel ended a process of it for lack of memory"
SHARED_GROUP = (
    "rank 0 was ended by SIGKILL: the kernel ended 2 processes of its control group for lack of memory"
)
BY_SOMEBODY = "rank 0 was ended by SIGKILL"
CANNOT_BE_TOLD = (
    "rank 0 was ended by SIGKILL: the kernel ended 1 process of its machine for lack of memory meanwhile; "
    "whether this was one cannot be told, as ranks have no control group of their own there (see dmesg)"
)


@pytest.mark.parametrize(
    ("end", "counts", "status", "reason"),
    [
        (KILLED | {"oom_kills": 1}, {"oom_kills": 1}, Status.OOM, ITS_GROUP),
        (KILLED | {"oom_kills": 0}, {"oom_kills": 1}, Status.KILLED, BY_SOMEBODY),
        (KILLED | {"exit_code": 1, "signal": None, "oom_kills": 1}, {"oom_kills": 1}, Status.OOM, A_PROCESS),
        (KILLED, {"oom_kills": 3, "group_oom_kills": 2}, Status.OOM, SHARED_GROUP),
        (KILLED, {"oom_kills": 3, "group_oom_kills": 0}, Status.KILLED, BY_SOMEBODY),
        (KILLED, {"oom_kills": 1}, Status.KILLED, CANNOT_BE_TOLD),
        (KILLED, {"oom_kills": 0}, Status.KILLED, BY_SOMEBODY),
        (
            KILLED | {"oom_kills": 0},
            {"oom_kills": 1, "memory_held_by": "rlimit_data"},
            Status.KILLED,
            CANNOT_BE_TOLD,
        ),
    ],
)
def test_the_narrowest_count_of_the_kernel_decides(
    tmp_path: Path, end: dict[str, Any], counts: dict[str, Any], status: Status, reason: str
) -> None:
    outcome = {"reason": "rank_failed", "ranks": [end], "first_failed_rank": 0} | counts
    result = extract(write_run(tmp_path, make_case(), seconds=(1.0,), outcome=outcome)).result
    assert (status, reason) == (result.status, result.reason)
