"""`loss L, lr: R, epoch: E, step: G, eta: ..., throughput: T imgs/sec` of insightface's arcface_paddle.

Later versions end with `ips: T images/sec`. T is the whole job's rate. The colons come and go.
"""

import re

from dlperf.importing.dialects.base import NUMBER, Dialect, Scope

_REST = rb"(?:(?!\bloss[: ])[^\r\n])*?"

DIALECT = Dialect(
    name="arcface_paddle",
    program="insightface arcface_paddle",
    scope=Scope.JOB,
    needles=(b"imgs/s", b"images/s", b"samples/s"),
    patterns=(
        re.compile(
            rb"\bloss:?[ \t]*(?P<loss>" + NUMBER + rb"),"
            rb"(?:[ \t]*\blr:?[ \t]*(?P<lr>" + NUMBER + rb"),)?"
            rb"[ \t]*\bepoch:?[ \t]*(?P<epoch>\d+),"
            rb"[ \t]*\bstep:?[ \t]*(?P<iteration>\d+),"
            + _REST
            + rb"\b(?:throughput|ips):?[ \t]*(?P<samples_per_sec>"
            + NUMBER
            + rb")"
            rb"[ \t]*(?:imgs|images|samples)/s(?:ec)?\b"
        ),
    ),
    ending=re.compile(rb".*/s(?:ec)?\s*"),
    framework="paddle",
    batch_size_is_per_device=True,
)
