"""Logs made from records, with the world around them, give back exactly these records."""

from __future__ import annotations

import gzip
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_makers import DIALECTS, NOISE, PROGRAMS, WRAPPERS, Made, parse, runs, seen
from plain_reader import read_alone
from property_tests import at_most

from dlperf.importing.archives import Log
from dlperf.importing.columnar import LineReader
from dlperf.importing.dialects.base import Scope
from dlperf.importing.reader import LogReader

EVERY_PROGRAM = pytest.mark.parametrize("name", PROGRAMS)
FEW = settings(max_examples=at_most(20), deadline=None)


def with_noise(lines: list[str], noise: list[tuple[int, str]]) -> list[str]:
    """The lines with others among them, each before the line of that number."""
    mixed = list(lines)
    for place, text in sorted(noise, reverse=True, key=lambda item: item[0]):
        mixed.insert(place % (len(mixed) + 1), text)
    return mixed


@EVERY_PROGRAM
@FEW
@given(data=st.data())
def test_records_come_back_out_of_noise_and_wrappers(name: str, data: st.DataObject) -> None:
    program = PROGRAMS[name]
    made = data.draw(runs(program))
    wrap = data.draw(WRAPPERS)
    noise = data.draw(st.lists(st.tuples(st.integers(0, 50), NOISE), max_size=8))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    lines = with_noise([wrap(program.line(one)) for one in made], noise)
    reader, records = parse((end.join(lines) + end).encode())
    assert [one.expected(program.fields) for one in made] == seen(records, program.fields)
    assert (program.dialect, 1) == (reader.dialect and reader.dialect.name, reader.runs)


@EVERY_PROGRAM
@FEW
@given(data=st.data())
def test_a_last_line_that_was_cut_is_no_record_and_takes_none_with_it(name: str, data: st.DataObject) -> None:
    program = PROGRAMS[name]
    made = data.draw(runs(program))
    lines = [program.line(one) for one in made]
    last = lines[-1].rstrip()
    kept = data.draw(st.integers(0, len(last) - 1))
    text = "".join(line + "\n" for line in lines[:-1]) + last[:kept]
    _reader, records = parse(text.encode())
    whole = [one.expected(program.fields) for one in made]
    assert whole[:-1] == seen(records, program.fields)[: len(made) - 1]
    for record in seen(records[len(made) - 1 :], program.fields):
        # All numbers were there, or (a log of one line) all that were there are right.
        missing = "None" if len(made) == 1 else "nothing"
        assert all(value in {whole[-1][field], missing} for field, value in record.items())


@EVERY_PROGRAM
@FEW
@given(data=st.data())
def test_a_whole_last_line_counts_without_its_line_feed(name: str, data: st.DataObject) -> None:
    program = PROGRAMS[name]
    made = data.draw(runs(program))
    _reader, records = parse("\n".join(program.line(one) for one in made).encode())
    assert [one.expected(program.fields) for one in made] == seen(records, program.fields)


@EVERY_PROGRAM
@FEW
@given(data=st.data())
def test_appended_runs_are_told_apart_where_the_steps_start_again(name: str, data: st.DataObject) -> None:
    program = PROGRAMS[name]
    first = data.draw(runs(program, largest=6).filter(lambda made: len(made) > 1))
    second = first[: data.draw(st.integers(1, len(first) - 1))]
    text = "".join(program.line(one) + "\n" for one in [*first, *second])
    reader, records = parse(text.encode())
    assert 2 == reader.runs
    assert [0] * len(first) + [1] * len(second) == [record.run for record in records]
    assert [one.expected(program.fields) for one in [*first, *second]] == seen(records, program.fields)


@EVERY_PROGRAM
@FEW
@given(data=st.data())
def test_bytes_that_are_no_utf_8_disturb_nothing(name: str, data: st.DataObject) -> None:
    program = PROGRAMS[name]
    made = data.draw(runs(program, largest=5))
    junk = data.draw(st.lists(st.binary(max_size=20), min_size=len(made), max_size=len(made)))
    quiet = [bytes(byte for byte in piece if byte >= 0x80) for piece in junk]
    text = b"".join(
        program.line(one).encode() + b"\n" + piece + b"\n" for one, piece in zip(made, quiet, strict=True)
    )
    _reader, records = parse(text)
    assert [one.expected(program.fields) for one in made] == seen(records, program.fields)


@EVERY_PROGRAM
@FEW
@given(data=st.data(), size=st.integers(1, 97))
def test_chunks_of_any_size_give_the_same(name: str, data: st.DataObject, size: int) -> None:
    program = PROGRAMS[name]
    made = data.draw(runs(program))
    text = "".join(program.line(one) + "\n" for one in made).encode()
    log = Log(name="a.log", stream=io.BytesIO(text), chunk_bytes=size)
    reader = LogReader(log, dialects=list(DIALECTS.values()))
    records = [record for batch in reader for record in batch.records()]
    assert list(map(repr, parse(text)[1])) == list(map(repr, records))
    assert [one.expected(program.fields) for one in made] == seen(records, program.fields)


@EVERY_PROGRAM
@FEW
@given(data=st.data())
def test_many_lines_read_at_once_equal_each_read_alone(name: str, data: st.DataObject) -> None:
    """Any digits, as many digits as there may be, lines of several layouts, enough of them for templates."""
    program = PROGRAMS[name]
    wrap = data.draw(WRAPPERS)
    lines = []
    for made in data.draw(runs(program, largest=4)):
        line = wrap(program.line(made)).encode()
        places = [place for place, byte in enumerate(line) if chr(byte).isdigit()]
        generator = random.Random(data.draw(st.integers(0, 1 << 32)))  # noqa: S311
        for _ in range(data.draw(st.integers(1, 12))):
            lines.append(bytearray(line))
            for place in places:
                lines[-1][place] = ord("0") + generator.randrange(10)
    block = b"".join(bytes(line) + b"\n" for line in lines)
    reader = LineReader([DIALECTS[program.dialect]])
    expected = [row for line in lines for row in read_alone(bytes(line), DIALECTS[program.dialect])]
    for _again in range(2):  # the second time with templates of the first
        rows = reader.read(block, is_cut=False).rows(DIALECTS[program.dialect])
        got = [
            [value if is_given else None for value, is_given in zip(values, given_, strict=True)]
            for values, given_ in zip(rows.values.tolist(), rows.given.tolist(), strict=True)
        ]
        assert repr(expected) == repr(got)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in {"mllog", "partial fc"}])
@FEW
@given(data=st.data())
def test_lines_of_several_ranks_in_any_order_are_told_apart(name: str, data: st.DataObject) -> None:
    """The two programs left out name their rank themselves."""
    program = PROGRAMS[name]
    made = data.draw(runs(program))
    ranks = data.draw(st.integers(2, 4))
    turns = data.draw(st.permutations([rank for rank in range(ranks) for _ in made]))
    waiting = {rank: iter(made) for rank in range(ranks)}
    text = "".join(f"[1,{rank}]<stdout>:{program.line(next(waiting[rank]))}\n" for rank in turns)
    reader, records = parse(text.encode())
    assert 1 == reader.runs
    expected = [one.expected(program.fields) for one in made]
    if DIALECTS[program.dialect].scope is Scope.PROCESS:
        for rank in range(ranks):
            assert expected == seen([each for each in records if each.rank == rank], program.fields)
    else:
        assert expected == seen(records, program.fields)
        assert {0} == {each.rank for each in records}


def test_two_records_on_one_line_both_count() -> None:
    program = PROGRAMS["oneflow"]
    made = [Made(iteration=5, rate="245.123"), Made(iteration=6, rate="246.123")]
    text = "[lf" + program.line(made[0]) + program.line(made[1]) + "w]: shape"
    _reader, records = parse(text.encode() + b"\n\n")
    assert [one.expected(program.fields) for one in made] == seen(records, program.fields)


def test_gzip_that_stops_in_its_middle_gives_what_was_whole() -> None:
    program = PROGRAMS["arcface"]
    made = [
        Made(iteration=number * 50, rate=f"{number + 1000.5:.2f}", loss="1.0000") for number in range(2000)
    ]
    text = "".join(program.line(one) + "\n" for one in made).encode()
    packed = gzip.compress(text)
    from dlperf.importing.archives import open_stream  # noqa: PLC0415

    (log,) = open_stream("a.log.gz", io.BytesIO(packed[: len(packed) // 2]))
    reader = LogReader(log, dialects=list(DIALECTS.values()))
    records = [record for batch in reader for record in batch.records()]
    assert 100 < len(records) < 2000
    assert [one.expected(program.fields) for one in made[: len(records)]] == seen(records, program.fields)
    assert ["the compressed data stops in its middle; read up to there"] == log.warnings
