"""Numbers read many at once are, to the last bit, what Python makes of each text."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.importing.columnar.cells import MASK, reader_of, texts_at


def read(group: str, *texts: str) -> list[float]:
    """The texts, of one shape, one behind the other up to the buffer's last byte."""
    buffer = np.frombuffer("".join(texts).encode(), np.uint8)
    starts = np.arange(len(texts)) * len(texts[0])
    return reader_of(group, texts[0].encode().translate(MASK))(buffer, starts).tolist()


DECIMALS = st.from_regex(r"\A[-+]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})\Z")


@given(text=DECIMALS, digits=st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_decimals_of_any_length_are_the_nearest_double(text: str, digits: list[int]) -> None:
    other = "".join(
        str(digits[place % len(digits)]) if letter.isdigit() else letter for place, letter in enumerate(text)
    )
    assert [float(text), float(other)] == read("loss", text, other)


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740993",  # 2^53 + 1: exactly between two doubles
        "9007199254740995",
        "1152921504606846848",  # 2^60 - 128: the gap below a power of two is half as wide
        "0.10000000000000000",
        "4503599627370496.5",
        "4503599627370497.5",
    ],
)
def test_decimals_between_two_doubles_are_rounded_once(text: str) -> None:
    assert [float(text)] == read("loss", text)


def test_seconds_become_milliseconds() -> None:
    assert [1600000000250.0] == read("time_s", "1600000000.25")


@given(
    instants=st.lists(
        st.datetimes(dt.datetime.min, dt.datetime(9999, 12, 31)),  # noqa: DTZ001, DTZ901
        min_size=1,
        max_size=5,
    ),
    fraction=st.sampled_from(["", ".%f", ",%f"]),
    decimals=st.integers(1, 6),
    zone=st.sampled_from(["", "Z", "+00:00", "-0330", "+05:45"]),
)
def test_times_are_the_milliseconds_that_python_counts(
    instants: list[dt.datetime], fraction: str, decimals: int, zone: str
) -> None:
    texts, expected = [], []
    for instant in instants:
        text = instant.isoformat(sep=" ", timespec="seconds")
        digits = f"{instant.microsecond:06d}"[:decimals] if fraction else ""
        texts.append(text + fraction[:1] + digits + zone)
        offset = dt.datetime.fromisoformat("2000-01-01T00:00" + (zone or "Z")).utcoffset()
        since = dt.datetime.fromisoformat(text) - dt.datetime(1970, 1, 1) - offset  # noqa: DTZ001
        expected.append(since // dt.timedelta(milliseconds=1) + int(digits[:3].ljust(3, "0") or 0))
    assert expected == read("time", *texts)


def test_a_date_that_does_not_exist_is_no_time() -> None:
    wrong, right = read("time", "2021-02-30 00:00:00", "1970-01-01 00:00:01")
    assert wrong != wrong  # noqa: PLR0124  a NaN
    assert 1000.0 == right


def test_texts_are_taken_from_anywhere_up_to_the_last_byte() -> None:
    buffer = np.frombuffer(b"abcdefgh", np.uint8)
    taken = texts_at(buffer, np.array([5, 0, 1]), 3)
    assert [b"fgh", b"abc", b"bcd"] == [row.tobytes() for row in taken]
