"""MLPerf's `:::MLLOG {json}`: `tracked_stats` with a `throughput`, ours too, and the key `throughput`."""

import re

from dlperf.importing.dialects.base import NUMBER, Dialect, Scope

_SPEED = rb"(?:throughput|(?:samples|images)_per_sec(?:ond)?)"
# Between two fields of a record. Where no other record follows on the line, the quick way is the same.
_QUICK_REST, _REST = rb"[^\r\n]*?", rb"(?:(?!:::MLL)[^\r\n])*?"


def _pattern(rest: bytes, condition: bytes) -> re.Pattern[bytes]:
    def field(name: bytes, group: bytes, value: bytes = NUMBER) -> bytes:
        return rest + rb'"' + name + rb'":[ ]?"?(?P<' + group + rb">" + value + rb')(?=["\s,}\]])'

    def key(name: bytes) -> bytes:
        return rb"(?=" + rest + rb'"key":[ ]?"' + name + rb'")'

    optional = (
        field(rb"(?:step|iteration)", b"iteration", rb"\d+"),
        field(rb"epoch(?:_num)?", b"epoch", rb"\d+"),
        field(b"rank", b"rank", rb"\d+"),
        field(rb"(?:loss_text|loss|(?:train|total|step)_loss)", b"loss"),
        field(rb"(?:lr|learning_rate)", b"lr"),
        field(b"time_ms", b"time_ms"),
    )
    return re.compile(
        rb":::MLL(?:OG)? \{(?"
        + condition
        + rb"[^\r\n]*?:::MLL)(?:"
        + (key(b"tracked_stats") + rb"(?=" + field(_SPEED, b"samples_per_sec") + rb")|")
        + (key(b"throughput") + rb"(?=" + field(b"value", b"samples_per_sec_") + rb"))")
        + b"".join(rb"(?=(?:" + each + rb")?)" for each in optional)
        + rest
        + rb"\}[ \t]*(?=[\r\n]|$|:::MLL|[^\"',\s\]}])"
    )


DIALECT = Dialect(
    name="mllog",
    program="MLPerf logging (:::MLLOG), dlperf's own programs",
    scope=Scope.JOB,
    needles=(b":::MLL",),
    patterns=(_pattern(_QUICK_REST, b"!"), _pattern(_REST, b"=")),
    start=re.compile(
        rb":::MLL(?:OG)? \{"
        + _REST
        + rb'"key":[ ]?"(?:init|run)_start"(?:'
        + _REST
        + rb'"rank":[ ]?(?P<rank>\d+))?'
    ),
    ending=re.compile(rb".*\}\s*"),
)
