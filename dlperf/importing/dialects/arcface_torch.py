"""`Training: <time>-Speed S samples/sec   Loss L   ...   Global Step: G   ...` of arcface_torch.

arcface_oneflow prints the same. S is the whole job's rate. The time is missing in an old form, and so may be
any field behind the speed; a line that has neither its step nor its last field was cut.
"""

import re

from dlperf.importing.dialects.base import NUMBER, TIMESTAMP, Dialect, Scope

_REST = rb"(?:(?!Speed[: ])[^\r\n])*?"


def _optional(name: bytes, group: bytes, value: bytes) -> bytes:
    return rb"(?=(?:" + _REST + name + rb":?[ \t]*(?P<" + group + rb">" + value + rb"))?)"


DIALECT = Dialect(
    name="arcface_torch",
    program="insightface arcface_torch and arcface_oneflow (nn.Graph)",
    scope=Scope.JOB,
    needles=(b" samples/sec", b"rank_id: "),
    patterns=(
        re.compile(
            rb"(?:Training:[ \t]*(?:(?P<time>" + TIMESTAMP + rb")[ \t]*-[ \t]*)?)?"
            rb"\bSpeed[ \t]+(?P<samples_per_sec>"
            + NUMBER
            + rb")[ \t]+samples/sec"
            + _optional(rb"\bLoss", b"loss", rb"(?:" + NUMBER + rb")(?=[ \t\r\n])")
            + _optional(rb"\bLearningRate", b"lr", rb"(?:" + NUMBER + rb")(?=[ \t\r\n])")
            + _optional(rb"\bEpoch", b"epoch", rb"\d+")
            + _optional(rb"\b(?:Global[ ])?Step", b"iteration", rb"\d+")
            + rb"(?="
            + _REST
            + rb"\b(?:Step|Required):)"
        ),
    ),
    start=re.compile(rb"\bTraining:[ \t]*(?:" + TIMESTAMP + rb"[ \t]*-[ \t]*)?rank_id: \d"),
    ending=re.compile(rb".*\bRequired:[ \t]*-?[\d.]+ hours\s*"),
    batch_size_is_per_device=True,
)
