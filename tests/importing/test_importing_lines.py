"""Reading thousands of lines at once gives what reading each of them alone gives."""

from __future__ import annotations

import io
import math
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_makers import DIALECTS, PROGRAMS, Made
from plain_reader import read_alone
from property_tests import at_most

from dlperf.importing.archives import Log
from dlperf.importing.reader import LogReader
from dlperf.importing.records import Batch
from dlperf.importing.runs import RunSplitter

if TYPE_CHECKING:
    from dlperf.importing.dialects.base import Dialect
    from dlperf.importing.records import Record

LINES = 400
SHORT = re.compile(rb"(?P<samples_per_sec>\d)")


def one_by_one(data: bytes, dialect: Dialect) -> list[str]:
    """The reference: every line is searched, and every number read, by itself."""
    splitter = RunSplitter(dialect.scope)
    batches = []
    for number, line in enumerate(data.split(b"\n"), 1):
        for row in read_alone(line, dialect):
            given_ = np.array([[value is not None for value in row]])
            values = np.array([[math.nan if value is None else value for value in row]])
            batches.extend(splitter.feed(Batch(np.array([number]), np.array([0]), values, given_)))
    batches.extend(splitter.finish())
    return sorted(repr(record) for batch in batches for record in batch.records())


def at_once(data: bytes, dialect: Dialect, *, chunk_bytes: int) -> list[str]:
    reader = LogReader(
        Log(name="a.log", stream=io.BytesIO(data), chunk_bytes=chunk_bytes), dialects=[dialect]
    )
    records: list[Record] = [record for batch in reader for record in batch.records()]
    return sorted(map(repr, records))


@st.composite
def disturbed_logs(draw: st.DrawFn) -> tuple[bytes, Dialect]:
    """A log of hundreds of lines in few layouts, with single bytes changed here and there."""
    program = PROGRAMS[draw(st.sampled_from(list(PROGRAMS)))]
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    lines = []
    for place in range(LINES):
        rate = f"{generator.uniform(1, 10 ** generator.integers(1, 4)):.{program.rate_decimals}f}"
        loss = f"{generator.uniform(0.1, 60):.{program.loss_decimals}f}"
        lines.append(bytearray(program.line(Made(iteration=place * 50, rate=rate, loss=loss)).encode()))
    for place, offset, byte in draw(
        st.lists(st.tuples(st.integers(0, LINES - 1), st.integers(0, 400), st.integers(0, 255)), max_size=30)
    ):
        lines[place][offset % len(lines[place])] = byte
    return b"".join(line + b"\n" for line in lines), DIALECTS[program.dialect]


@settings(max_examples=at_most(60), deadline=None)
@given(log=disturbed_logs(), chunk_bytes=st.integers(1_000, 60_000))
def test_lines_read_at_once_equal_lines_read_alone(log: tuple[bytes, Dialect], chunk_bytes: int) -> None:
    data, dialect = log
    data = data.replace(b"\0", b" ").replace(b"\x1b", b" ")
    assert one_by_one(data, dialect) == at_once(data, dialect, chunk_bytes=chunk_bytes)


def test_the_table_of_layouts_is_emptied_before_it_grows_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every line has a layout of its own, but for one in fifty; with a tenth of the bound."""
    monkeypatch.setattr("dlperf.importing.columnar.lines._MOST_LAYOUTS", 2_000)
    program = PROGRAMS["oneflow"]
    lines = []
    for place in range(6_000):
        lines.append(f"noise {'x' * (place % 211)} {'y' * (place % 307)} {'z' * (place % 13)}")
        if place % 50 == 0:
            lines.append(program.line(Made(iteration=place, rate="245.123")))
    data = "\n".join(lines).encode() + b"\n"
    log = Log(name="a.log", stream=io.BytesIO(data), chunk_bytes=100_000)  # it is looked at after each
    reader = LogReader(log, dialects=list(DIALECTS.values()))
    assert 120 == sum(len(batch) for batch in reader)
    assert len(reader._lines._codes) < 3_000


def test_short_lines_at_the_very_end_of_a_chunk_are_read_too() -> None:
    """A template compares whole words, and less than a word of the chunk is left behind the last lines."""
    dialect = replace(DIALECTS["oneflow_face"], needles=(b"",), patterns=(SHORT,), ending=None)
    data = b"".join(b"%d\n" % (place % 10) for place in range(5000))
    reader = LogReader(Log(name="a.log", stream=io.BytesIO(data), chunk_bytes=500), dialects=[dialect])
    rates = np.concatenate([batch.column("samples_per_sec") for batch in reader])
    assert [float(place % 10) for place in range(5000)] == rates.tolist()


def test_a_line_of_thousands_of_records_takes_no_time_to_speak_of() -> None:
    """Looking for the next record from each one to the end of the line would take half a minute."""
    program = PROGRAMS["mllog"]
    line = " ".join(program.line(Made(iteration=place, rate="245.5")) for place in range(4000))
    began = time.process_time()
    reader = LogReader(Log(name="a.log", stream=io.BytesIO(line.encode())), dialects=[DIALECTS["mllog"]])
    assert 4000 == sum(len(batch) for batch in reader)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "data",
    [
        b"INFO:root:Epoch[0] Batch [20]\tSpeed: 100.0 samples/sec\taccuracy=0.1\n" * 40_000,
        b'{"log":"a' * 100_000,
        (b"Traceback (most recent call last):\ntrain: iter 5, loss 1.0, throughput: 1.000\n") * 5_000,
    ],
    ids=["the same line without a tag", "json without an end", "tracebacks that training survives"],
)
def test_what_repeats_itself_takes_no_time_to_speak_of(data: bytes) -> None:
    began = time.process_time()
    reader = LogReader(Log(name="a.log", stream=io.BytesIO(data)), dialects=list(DIALECTS.values()))
    assert sum(len(batch) for batch in reader) <= 512
    assert time.process_time() - began < 10
