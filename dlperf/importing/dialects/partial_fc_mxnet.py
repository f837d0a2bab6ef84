"""`rank-id:R:<time>-Iter:N Rank:x it/sec Total:y it/sec [E][loss]:z` of insightface's Partial FC (MXNet).

`it/sec` means samples per second. Total is the whole job's rate and is what counts; Rank is one process's.
"""

import re

from dlperf.importing.dialects.base import NUMBER, TIMESTAMP, Dialect, Scope

DIALECT = Dialect(
    name="partial_fc_mxnet",
    program="insightface partial_fc for MXNet (Horovod)",
    scope=Scope.JOB,
    needles=(b"it/sec", b"rank_id: "),
    patterns=(
        re.compile(
            rb"(?:rank-id:[ ]?(?P<rank>\d+):[ ]?(?:(?P<time>" + TIMESTAMP + rb")[ ]?-[ ]?)?)?"
            rb"\bIter:[ ]?(?P<iteration>\d+)(?:/\d+)?[ \t]+Rank:[ ]?(?:" + NUMBER + rb")[ \t]+it/sec"
            rb"[ \t]+Total:[ ]?(?P<samples_per_sec>" + NUMBER + rb")[ \t]+it/sec"
            rb"(?:[ \t]+\[(?P<epoch>\d+)\]\[[^\]\r\n]*\]:[ ]?(?P<loss>" + NUMBER + rb"))?"
        ),
    ),
    start=re.compile(rb"\brank-id:[ ]?(?P<rank>\d+):[ ]?(?:" + TIMESTAMP + rb"[ ]?-[ ]?)?rank_id: \d"),
    ending=re.compile(rb".*\]:[ ]?-?(?:\d+\.\d\d|nan|inf)\s*"),
    framework="mxnet",
    parallelism="partial_fc",
)
