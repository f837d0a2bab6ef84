"""Numbers read many at once are, to the last bit, what Python makes of each text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.logs.cells import reader_of, texts_at
from dlperf.logs.layout import MASK

DECIMALS = st.from_regex(r"\A[-+]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})\Z")


@given(text=DECIMALS, digits=st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_decimals_of_any_length_are_the_nearest_double(text: str, digits: list[int]) -> None:
    other = "".join(
        str(digits[place % len(digits)]) if letter.isdigit() else letter for place, letter in enumerate(text)
    )
    texts = np.frombuffer((text + other).encode(), np.uint8).reshape(2, -1)
    assert [float(text), float(other)] == reader_of("loss", text.encode().translate(MASK)).read(
        texts
    ).tolist()


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
    texts = np.frombuffer(text.encode(), np.uint8).reshape(1, -1)
    assert [float(text)] == reader_of("loss", text.encode().translate(MASK)).read(texts).tolist()


def test_seconds_become_milliseconds() -> None:
    texts = np.frombuffer(b"1600000000.25", np.uint8).reshape(1, -1)
    assert [1600000000250.0] == reader_of("time_s", b"0000000000.00").read(texts).tolist()


def test_texts_are_taken_from_anywhere_up_to_the_last_byte() -> None:
    buffer = np.frombuffer(b"abcdefgh", np.uint8)
    taken = texts_at(buffer, np.array([5, 0, 1]), 3)
    assert [b"fgh", b"abc", b"bcd"] == [row.tobytes() for row in taken]
