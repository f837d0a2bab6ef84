"""`train: iter I, loss L, throughput: T` of oneflow_face's insightface_train.py.

T has three decimals, always: a number with fewer was cut. An asynchronous callback prints the line, so it may
stand inside another line, and another may follow its last digit at once.
"""

import re

from dlperf.importing.dialects.base import NUMBER, Dialect, Scope

DIALECT = Dialect(
    name="oneflow_face",
    program="oneflow_face 0.3 (insightface_train.py)",
    scope=Scope.JOB,
    needles=(b"train: iter ", b"num_gpu_per_node = "),
    patterns=(
        re.compile(
            rb"train: iter (?P<iteration>\d+)(?:/\d+)?, "
            rb"loss (?:\[|np\.float\d+\()?(?P<loss>" + NUMBER + rb")[\])]?, "
            rb"throughput: (?P<samples_per_sec>\d+\.\d{3}|inf\b|nan\b)"
        ),
    ),
    start=re.compile(rb"\b\w+ing [\w.-]+: num_gpu_per_node = \d"),
    ending=re.compile(rb"(?s:.*)"),  # the pattern matches whole records alone
    framework="oneflow",
)
