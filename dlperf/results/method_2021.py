"""The arithmetic of the 2021 comparison, exactly: means of rates, rounded where its scripts rounded.

A mean of rates is not samples over time: fast windows count as much as slow ones. It is here so that the old
figures can be recomputed; the ordinary method divides samples by seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NAME = "dlperf-2021"
FORMULA = "mean of rates, rounded to 2 decimals"


def run_figure(rates: Sequence[float]) -> float:
    """Arithmetic mean of rates, rounded to 2 decimals."""
    return float(round(np.mean(rates), 2))


def case_figure(run_figures: Sequence[float]) -> float:
    """Median over the runs, rounded to 2 decimals."""
    return float(round(np.median(run_figures), 2))


def speedup(figure: float, single: float) -> float:
    """Case over 1n1g, rounded to 2 decimals."""
    return round(figure / single, 2)
