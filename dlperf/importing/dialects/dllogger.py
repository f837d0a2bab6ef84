"""NVIDIA's DLLogger: `DLL <time> - Epoch: E Iteration: I  train.ips : T ...`; JSON lines `DLLL {...}`.

A step may be a number alone. A list of one number as step is an epoch's summary, one of three is validation;
neither is a record.
"""

import re

from dlperf.importing.dialects.base import NUMBER, TIMESTAMP, Dialect, Scope

_SPEED = rb"(?:train[._](?:total_)?(?:ips|throughput)|(?:total_)?(?:ips|throughput)|(?:ips|throughput)_train)"
_LOSS = rb"(?:(?:train|step|total|average|avg|mean)[._])*loss"
_LR = rb"(?:train[._])?(?:lr|learning_rate)"
_TEXT_REST = rb"(?:(?!\bDLLL? )[^\r\n])*?"
_JSON_STEP = rb'"step":[ ]?(?:\[[ ]?(?P<epoch>\d+),[ ]?(?P<iteration>\d+)[ ]?\]|(?P<iteration_>\d+))(?=[ ,}])'


def _text(name: bytes, group: bytes) -> bytes:
    value = rb"(?<![\w.])" + name + rb"[ ]:[ ]+(?P<" + group + rb">" + NUMBER + rb")(?![\w.])"
    return _TEXT_REST + value


def _json(name: bytes, group: bytes) -> bytes:
    return _TEXT_REST + rb'"' + name + rb'":[ ]?(?P<' + group + rb">" + NUMBER + rb")"


DIALECT = Dialect(
    name="dllogger",
    program="NVIDIA DLLogger (DeepLearningExamples)",
    scope=Scope.JOB,
    needles=(b"DLL ", b"DLLL "),
    patterns=(
        re.compile(
            rb"\bDLL (?P<time>" + TIMESTAMP + rb") - "
            rb"(?:(?:Training )?Epoch: ?(?P<epoch>\d+)(?:/\d+)? +"
            rb"(?:Training )?Iteration: ?(?P<iteration>\d+)(?:/\d+)? "
            rb"(?! *Validation)|[(\[](?P<epoch_>\d+), (?P<iteration_>\d+)[)\]] "
            rb"|(?:(?:Training )?Iteration: ?)?(?P<iteration__>\d+) )"
            rb"(?=" + _text(_SPEED, b"samples_per_sec") + rb")"
            rb"(?=(?:" + _text(_LOSS, b"loss") + rb")?)(?=(?:" + _text(_LR, b"lr") + rb")?)"
        ),
        re.compile(
            rb"\bDLLL \{"
            rb"(?=(?:" + _TEXT_REST + rb'"datetime": ?"(?P<time>' + TIMESTAMP + rb')")?)'
            rb"(?=" + _TEXT_REST + rb'"type": ?"LOG")'
            rb"(?=" + _TEXT_REST + _JSON_STEP + rb")"
            rb"(?=" + _json(_SPEED, b"samples_per_sec") + rb")"
            rb"(?=(?:" + _json(_LOSS, b"loss") + rb")?)(?=(?:" + _json(_LR, b"lr") + rb")?)"
            rb"[^\r\n]*?\}\}"
        ),
    ),
    ending=re.compile(rb"DLLL.*\}\s*|DLL .*(?: |[^\d\s.]+)\r?"),
)
