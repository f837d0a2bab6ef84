"""A report on disk: the document and, in a folder beside it, its charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.charts import Chart, charts, published
from dlperf.report.render import ChartLink, markdown
from dlperf.results.store import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dlperf.report.document import Document


def write_report(document: Document, path: Path, *, template: Path | None = None) -> None:
    """Write the report to `path` and its charts to `<stem>_files/` beside it, the document last.

    Raises:
        UserError: the template does not work.
        OSError: the place cannot be written to.
    """
    files = path.parent / f"{path.stem}_files"
    links: dict[str, list[ChartLink]] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for slug, chart in _charts(document):
        files.mkdir(exist_ok=True)
        name = f"{slug}-{chart.name}"
        write_atomically(files / f"{name}.png", chart.png)
        write_atomically(files / f"{name}.svg", chart.svg)
        links.setdefault(slug, []).append(_link(chart, f"{files.name}/{name}"))
    write_atomically(path, markdown(document, charts=links, template=template).encode())


def _charts(document: Document) -> Iterator[tuple[str, Chart]]:
    """Every chart, with the slug of its section."""
    for section in document.sections:
        for chart in charts(section.comparison, title=section.title, arms=document.arms):
            yield section.slug, chart
    for report in document.published:
        for part in report.sections:
            for chart in published.charts(part):
                yield part.slug, chart


def _link(chart: Chart, stem: str) -> ChartLink:
    return ChartLink(png=f"{stem}.png", svg=f"{stem}.svg", alt=chart.alt)
