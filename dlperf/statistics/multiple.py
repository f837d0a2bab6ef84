"""Many tests at once: p-values that say what they say although there are many."""

from __future__ import annotations

from collections.abc import Sequence


def two_sided_p(t: float, *, degrees: float) -> float:
    """The chance of a t so far from 0 or farther, were there no difference; infinite degrees: normal."""
    from scipy.special import ndtr, stdtr  # type: ignore[import-untyped]  # noqa: PLC0415

    below = ndtr(-abs(t)) if degrees == float("inf") else stdtr(degrees, -abs(t))
    return float(2 * below)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: those below q hold a share of at most q false ones, on average.

    Benjamini and Hochberg, "Controlling the false discovery rate", Journal of the Royal Statistical Society
    B 57 (1995). In the order given.
    """
    count = len(p_values)
    adjusted = [1.0] * count
    least = 1.0
    for rank, index in reversed(list(enumerate(_ascending(p_values), 1))):
        least = min(least, p_values[index] * count / rank)
        adjusted[index] = least
    return adjusted


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the chance of any false one below q is at most q.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979). In the order given.
    """
    adjusted = [1.0] * len(p_values)
    most = 0.0
    for rank, index in enumerate(_ascending(p_values)):
        most = max(most, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = most
    return adjusted


def _ascending(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=p_values.__getitem__)
