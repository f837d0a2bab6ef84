"""Numbers as people read them. None is an empty string: what stands there instead is the table's business."""

from dlperf.report.text import Inline, Text, say

_FOUR_DIGITS_ARE_TWO_DECIMALS = 10.0
NOT_KNOWN = say("not known")
DASH = say("-")  # ours, so that it stands as it is and is not escaped as if it began a list


def rate(value: float | None) -> str:
    """Two decimals from 10 on, four digits below: as long for 9.640 as for 9.312."""
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) >= _FOUR_DIGITS_ARE_TWO_DECIMALS else f"{value:#.4g}"


def or_not_known(value: int | str | None) -> Inline:
    """A number or a name, or that it is not known."""
    return NOT_KNOWN if value is None else str(value)


def iterations(warmup: int, measured: int | None) -> Text:
    """`20 warm-up, 100 measured`."""
    if measured is None:
        return say("{warmup} warm-up, measured: not known", warmup=warmup)
    return say("{warmup} warm-up, {measured} measured", warmup=warmup, measured=measured)


def percent(fraction: float | None, *, decimals: int = 2) -> str:
    """A fraction as a percentage."""
    return "" if fraction is None else f"{100 * fraction:.{decimals}f} %"


def factor(value: float | None) -> str:
    """A ratio of two rates."""
    return "" if value is None else f"{value:.2f}"


def reach(low: str, high: str) -> Inline:
    """`3`, or `3 to 5` where the two differ."""
    return low if low == high else say("{low} to {high}", low=low, high=high)


def span(low: float | None, high: float | None) -> str:
    """From low to high, both as rates."""
    return "" if low is None or high is None else f"{rate(low)} to {rate(high)}"


def giga(value: float | None) -> str:
    """In units of 10^9."""
    return "" if value is None else rate(value / 1e9)


def mebibytes(value: float | None) -> str:
    """Bytes in MiB."""
    return "" if value is None else f"{value / 2**20:.0f}"
