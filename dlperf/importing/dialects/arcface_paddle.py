"""`loss L, lr: R, epoch: E, step: G, eta: ..., throughput: T imgs/sec` of insightface's arcface_paddle.

Later versions end with `ips: T images/sec`. T is the whole job's rate. The colons come and go.
"""

import re

from dlperf.importing.dialects.base import NUMBER, TIMESTAMP, Dialect, Scope

_REST = rb"(?:(?!\bloss[: ])[^\r\n])*?"

DIALECT = Dialect(
    name="arcface_paddle",
    program="insightface arcface_paddle",
    scope=Scope.JOB,
    needles=(b"imgs/s", b"images/s", b"samples/s", b"rank: "),
    patterns=(
        re.compile(
            rb"\bloss:?[ \t]*(?P<loss>" + NUMBER + rb"),"
            rb"(?:[ \t]*\blr:?[ \t]*(?P<lr>" + NUMBER + rb"),)?"
            rb"[ \t]*\bepoch:?[ \t]*(?P<epoch>\d+)(?:/\d+)?,"
            rb"[ \t]*\bstep:?[ \t]*(?P<iteration>\d+)(?:/\d+)?,"
            + _REST
            + rb"\b(?:throughput|ips):?[ \t]*(?P<samples_per_sec>"
            + NUMBER
            + rb")"
            rb"[ \t]*(?:imgs|images|samples)/s(?:ec)?\b"
        ),
    ),
    start=re.compile(rb"\bTraining:[ \t]*(?:" + TIMESTAMP + rb"[ \t]*-[ \t]*)?rank: \d"),
    ending=re.compile(rb".*/s(?:ec)?\s*"),
    framework="paddle",
    batch_size_is_per_device=True,
)
