"""MLPerf's `:::MLLOG {json}`: `tracked_stats` with a `throughput`, ours too, and the key `throughput`."""

from __future__ import annotations

import re

from dlperf.logs.dialects.base import NUMBER, Dialect, Scope

_SPEED = rb"(?:throughput|(?:samples|images)_per_sec(?:ond)?)"
_REST = rb"(?:(?!:::MLL)[^\r\n])*?"


def _number(name: bytes, group: bytes, value: bytes = NUMBER) -> bytes:
    return _REST + rb'"' + name + rb'":[ ]?"?(?P<' + group + rb">" + value + rb')(?=["\s,}\]])'


DIALECT = Dialect(
    name="mllog",
    program="MLPerf logging (:::MLLOG), dlperf's own programs",
    scope=Scope.JOB,
    needles=(b":::MLL",),
    patterns=(
        re.compile(
            rb":::MLL(?:OG)? \{"
            rb"(?=(?:" + _number(b"time_ms", b"time_ms") + rb")?)"
            rb"(?:(?="
            + _REST
            + rb'"key":[ ]?"tracked_stats")(?='
            + _number(_SPEED, b"samples_per_sec")
            + rb")"
            rb"|(?="
            + _REST
            + rb'"key":[ ]?"throughput")(?='
            + _number(b"value", b"samples_per_sec_")
            + rb"))"
            rb"(?=(?:" + _number(b"(?:step|iteration)", b"iteration", rb"\d+") + rb")?)"
            rb"(?=(?:" + _number(b"epoch(?:_num)?", b"epoch", rb"\d+") + rb")?)"
            rb"(?=(?:" + _number(b"rank", b"rank", rb"\d+") + rb")?)"
            rb"(?=(?:" + _number(b"(?:loss_text|loss|train_loss)", b"loss") + rb")?)"
            rb"(?=(?:"
            + _number(b"(?:lr|learning_rate)", b"lr")
            + rb")?)"
            + _REST
            + rb"\}[ \t]*(?=[\r\n]|$|:::MLL|[^\"',\s\]}])"
        ),
    ),
    ending=re.compile(rb".*\}\s*"),
)
