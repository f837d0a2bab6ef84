"""A chart as data, for a page that draws it itself: what `templates/report.js` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotPoint:
    """One value: at the number `x` of lines, or in the category `x` of bars.

    `y` None has no mark, and its `word` stands there. `start` is where a bar begins if not at 0. `low` and
    `high` are the ends of the whiskers; `middle` is a mark on a bar.
    """

    x: float
    y: float | None
    word: str = ""
    start: float | None = None
    low: float | None = None
    high: float | None = None
    middle: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotSeries:
    """Values of one colour; `variant` tells lines of one colour apart by their dashes."""

    label: str
    colour: str
    points: tuple[PlotPoint, ...]
    variant: int = 0
    ideal: bool = False


Numbers = Literal["rate", "factor", "percent", "whole"]  # how values are written


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Bars lie, their `categories` from top to bottom; lines have `ticks`, labels by position."""

    kind: Literal["bars", "stack", "lines"]
    title: str
    x_name: str
    y_name: str
    series: tuple[PlotSeries, ...]
    categories: tuple[str, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()
    logarithmic_x: bool = False
    numbers: Numbers = "rate"
