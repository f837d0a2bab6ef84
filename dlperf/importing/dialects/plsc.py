"""`[Train][Epoch E/EE][Iter: I/II]lr: R, ..., loss: L, ..., ips: T images/sec, eta: ...` of plsc-train.

I counts from 0 in every epoch, and R may be `none`. T is the whole job's rate; only rank 0 prints. PaddleClas
prints the same with another name in front, and the rate of one process: it is no record here.
"""

import re

from dlperf.importing.dialects.base import NUMBER, TIMESTAMP, Dialect, Scope

_REST = rb"(?:(?!\[Train\])[^\r\n])*?"

DIALECT = Dialect(
    name="plsc",
    program="PaddlePaddle PLSC (plsc-train)",
    scope=Scope.JOB,
    needles=(b"plsc INFO: ",),
    patterns=(
        re.compile(
            rb"(?:\[(?P<time>" + TIMESTAMP + rb")\][ \t]*)?\bplsc INFO: \[Train\]"
            rb"\[Epoch (?P<epoch>\d+)(?:/\d+)?\]\[Iter: (?P<iteration>\d+)(?:/\d+)?\]"
            rb"[ \t]*(?:lr: (?:(?P<lr>" + NUMBER + rb")|none),)?"
            rb"(?=(?:"
            + _REST
            + rb"[ ,]loss: (?P<loss>"
            + NUMBER
            + rb"),)?)"
            + _REST
            + rb"\bips: (?P<samples_per_sec>"
            + NUMBER
            + rb") images/sec\b"
        ),
    ),
    start=re.compile(rb"\bplsc INFO: train with paddle "),
    ending=re.compile(rb".*\beta: (?:\d+ days?, )?\d+:\d\d:\d\d\s*"),
    framework="paddle",
    batch_size_is_per_device=True,
)
