r"""`Epoch[E] Batch [B]\tSpeed: S samples/sec\tname=value...` of MXNet's Speedometer, in ArcFace's train.py.

S is one process's rate. B may be a range `a-b`, of which b is the batch. Very old versions repeat the line
once a metric; where no metric is set the line says `Iter[E]` and the loss stands on a line
`CELOSS,step,loss`.
"""

import re

from dlperf.importing.dialects.base import NUMBER, Dialect, Scope

_METRIC = rb"(?:(?!Speed:)[^\r\n])*?[ \t,-]"

DIALECT = Dialect(
    name="insightface_mxnet",
    program="insightface ArcFace for MXNet (train.py, train_parall.py)",
    scope=Scope.PROCESS,
    needles=(b"Speed:", b"CELOSS,", b"Called with argument"),
    patterns=(
        re.compile(
            rb"(?:Epoch|Iter)[ ]?\[(?P<epoch>\d+)\][ \t]+Batch[ \t]*\[(?:\d+-)?(?P<iteration>\d+)(?:/\d+)?\]"
            rb"[ \t]+Speed:[ \t]*(?P<samples_per_sec>" + NUMBER + rb")[ \t]+samples/sec"
            rb"(?=(?:" + _METRIC + rb"(?:\w*loss\w*|cross-entropy|ce)=(?P<loss>" + NUMBER + rb"))?)"
            rb"(?:[ \t,]+(?P<metric>[A-Za-z][\w-]*)=)?"
        ),
    ),
    loss_line=re.compile(rb"\bCELOSS,[ \t]*(?P<iteration>\d+),[ \t]*(?P<loss>" + NUMBER + rb")"),
    start=re.compile(rb"\bCalled with argument:"),
    ending=re.compile(rb".*(?:[=,]-?(?:\d+\.\d{6}|nan|inf)|Iter\[[^=]* samples/sec)\s*"),
    framework="mxnet",
)
