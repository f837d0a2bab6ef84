"""What all charts share: look, colours, row labels, hover texts, and how a figure becomes a file.

An opaque white card with dark text reads alike on GitHub's light and dark pages; the HTML page gives the card
its own colours (templates/report.css). Colours are those of Okabe and Ito, "Color Universal Design" (2008).
Text in the SVG stays text.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dlperf.report.comparison import Comparison, Row, Variant

# Okabe and Ito's palette without yellow, which is too light for white; neighbours lie far apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
# report.css knows these two, white and black, and replaces them on a dark page.
INK, FAINT = "#24292f", "#6e7781"
STYLE: Any = {  # matplotlib types the keys one by one
    "svg.fonttype": "none",
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
_SVG = "http://www.w3.org/2000/svg"
_HOVER = "hover: "
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart in both formats; `name` is its own in its section, `alt` says it in words."""

    name: str
    alt: str
    png: bytes
    svg: bytes


def legend_above(axes: Axes, handles: Sequence[Artist], *, title: str) -> None:
    """The title, and below it what the colours mean, in as many lines as it takes."""
    columns = min(len(handles), _MOST_COLUMNS)
    lines = -(-len(handles) // columns)
    axes.set_title(title, loc="left", pad=_LEGEND_LINE * lines + 8)
    axes.legend(handles=handles, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


def name_bars(axes: Axes, names: Sequence[str]) -> None:
    """Names of the bars at 0, 1, ..., from top to bottom."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def hover(artist: Artist, *parts: str) -> None:
    """Text that a browser shows while the pointer is over the artist: an SVG `<title>`."""
    artist.set_gid(_HOVER + "; ".join(part for part in parts if part))


def hover_bar(axes: Axes, middle: float, *parts: str, height: float) -> None:
    """The same over the whole row of a bar at `middle`, whose own area may be small."""
    left, right = axes.get_xlim()
    (area,) = axes.barh(middle, right - left, left=left, height=height, alpha=0, zorder=10)
    hover(area, *parts)


def draw(figure: Figure, *, name: str, alt: str) -> Chart:
    """Both pictures, without the date and the name of the program that would make equal charts differ."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.set_dpi(_DOTS_PER_INCH)
    raster = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # lays out once for both; savefig would do it again for each
    figure.set_layout_engine("none")
    raster.print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
    # The ids of an SVG are made from this salt: those of two charts on one page differ.
    with mpl.rc_context({"svg.hashsalt": f"{name} {alt}"}):
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return Chart(name=name, alt=alt, png=png.getvalue(), svg=_finished(svg.getvalue(), alt=alt))


def _finished(svg: bytes, *, alt: str) -> bytes:
    """The SVG with titles for hovering and a label, without what a page of several charts cannot have.

    That is the style sheet, which would hold for the whole page, and the ids of groups, which are the same in
    every file.
    """
    text = svg.decode()
    root = ET.fromstring(_NOT_XML.sub("", text[text.index("<svg") :]))  # noqa: S314  our own
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    for group in list(root.iter()):
        for child in list(group):
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                group.remove(child)
        identity = group.get("id", "")
        if identity not in used:
            group.attrib.pop("id", None)
        if identity.startswith(_HOVER):
            title = ET.Element(f"{{{_SVG}}}title")
            title.text, title.tail = identity.removeprefix(_HOVER), "\n"
            group.insert(0, title)
            group.set("pointer-events", "all")  # what is drawn with alpha=0 has no fill
    label = {
        "role": "img",
        "aria-label": _NOT_XML.sub("", alt),
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    root.attrib.update(label)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root) + b"\n"


def varying_words(comparison: Comparison, row: Row, *, but: str = "") -> list[str]:
    """What tells a row from the others beside its topology, in words; `but` is left out."""
    texts = row.in_words().items()
    return [text for name, text in texts if name != but and name in comparison.varying]


def case_name(comparison: Comparison, row: Row, variant: Variant) -> str:
    """A case in words, as far as it differs from the others of its table."""
    return ", ".join([comparison.label(variant), row.topology, *varying_words(comparison, row)])
