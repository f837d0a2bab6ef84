"""What all charts share: look, colours, the row labels, and how a figure becomes a file.

An opaque white card with dark text reads alike on GitHub's light and dark pages. Colours are those of Okabe
and Ito, "Color Universal Design" (2008); text in the SVG stays text.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dlperf.report.charts.plot import Plot
    from dlperf.report.comparison import Arm, Comparison, Row

# Okabe and Ito's palette without yellow, which is too light for white; neighbours lie far apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
INK, FAINT = "#24292f", "#6e7781"
STYLE: Any = {  # matplotlib types the keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "dlperf",
    # The one font that comes with matplotlib; an SVG on a machine without it takes any without serifs.
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 11,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
WIDTH = 8.0  # inches
_MOST_COLUMNS = 3
_LEGEND_LINE = 20  # points
_DOTS_PER_INCH = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart in both formats; `name` is its own in its section, `alt` says it in words."""

    name: str
    alt: str
    png: bytes
    svg: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart(Picture):
    """A chart as pictures and as data."""

    plot: Plot


@dataclass(frozen=True, slots=True)
class Palette:
    """One colour an arm, the same in every chart of a report."""

    arms: Sequence[Arm]

    def colour(self, arm: Arm) -> str:
        """The arm's colour; the eighth arm has the first one's again."""
        return COLOURS[self.arms.index(arm) % len(COLOURS)]


def legend_above(axes: Axes, handles: Sequence[Artist], *, title: str) -> None:
    """The title, and below it what the colours mean, in as many lines as it takes."""
    columns = min(len(handles), _MOST_COLUMNS)
    lines = -(-len(handles) // columns)
    axes.set_title(title, loc="left", pad=_LEGEND_LINE * lines + 8)
    axes.legend(handles=handles, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


def drawn(figure: Figure, *, name: str, alt: str, plot: Plot) -> Chart:
    """The chart of a figure, with its data."""
    made = picture(figure, name=name, alt=alt)
    return Chart(name=name, alt=alt, png=made.png, svg=made.svg, plot=plot)


def picture(figure: Figure, *, name: str, alt: str) -> Picture:
    """Both pictures, without the date and the name of the program that would make equal charts differ."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.set_dpi(_DOTS_PER_INCH)
    raster = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # lays out once for both; savefig would do it again for each
    figure.set_layout_engine("none")
    raster.print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
    vector = FigureCanvasSVG(figure)
    vector.print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return Picture(name=name, alt=alt, png=png.getvalue(), svg=svg.getvalue())


def varying(comparison: Comparison, row: Row, *, but: str = "") -> list[str]:
    """What tells a row from the others beside its topology, in words; `but` is left out."""
    texts = {
        "batch_size_per_device": f"batch {row.shown('batch_size_per_device')}",
        "num_classes": f"{row.shown('num_classes')} classes",
        "precision": row.precision,
        "sample_ratio": f"ratio {row.sample_ratio:g}",
    }
    return [text for name, text in texts.items() if name != but and comparison.varying(name)]
