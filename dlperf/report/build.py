"""From folders to a report on disk: what is read, the document, and its charts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.adapters.registry import load_adapters
from dlperf.errors import UserError
from dlperf.files import write_atomically
from dlperf.report.alignment import read_certificates
from dlperf.report.document import Document, document
from dlperf.report.record import record_of
from dlperf.report.render import ChartLink, Request, html, markdown
from dlperf.report.text import plain_text
from dlperf.results.noise_profile import read_noise_profile
from dlperf.results.query import load, run_sources

if TYPE_CHECKING:
    from dlperf.report.charts import Chart  # loads matplotlib


def build_report(
    request: Request, *, report_folder: Path | None = None, strict: bool = False, from_logs: bool = False
) -> Document:
    """The report that is asked for.

    Args:
        request: what is asked for.
        report_folder: the folder that the report will lie in; None is the current one.
        strict: raise where results cannot be read or come from different hardware.
        from_logs: make every result again from its log in place of reading it.

    Raises:
        UserError: there is no result, or (`strict`) something would be skipped or set apart.
    """
    loaded = load(request.paths, strict=strict, from_logs=from_logs)
    hardware = sorted({run.hardware for run in loaded.results.runs})
    if strict and len(hardware) > 1:
        raise UserError(
            "results of different hardware are not comparable:\n" + "\n".join(f"  {one}" for one in hardware)
        )
    titles = {name: adapter.title for name, adapter in load_adapters().items()}
    found, damaged = read_certificates(loaded.results.sweeps, given=request.certificates)
    if strict and damaged:
        raise UserError("\n".join(map(str, damaged)))
    return document(
        loaded,
        titles=titles,
        certificates=found,
        noise_profile=read_noise_profile(request.qualification) if request.qualification else None,
        skipped=(*loaded.results.skipped, *damaged),
        view=request.view,
        report_folder=report_folder or Path(),
        sources={run.folder: run_sources(run.folder) for run in loaded.results.runs},
    )


def write_report(document: Document, request: Request, path: Path) -> None:
    """Write the report to `path`: one HTML file, or Markdown with its charts in `<stem>_files/` beside it.

    The charts come first, the document last; behind it stands the record of what it was made from.

    Raises:
        UserError: the template does not work.
        OSError: the place cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    charts: dict[str, bytes] = {}
    if request.form == "html":
        text = with_charts(document, request)
    else:
        text = _markdown(document, request, path, written=charts)
    record = record_of(document, request, folder=path.parent, text=text, charts=charts)
    write_atomically(path, (text + record.comment()).encode())


def with_charts(document: Document, request: Request) -> str:
    """The report as HTML with its charts within it."""
    drawn: dict[str, list[Chart]] = {}
    for slug, chart in _charts(document):
        drawn.setdefault(slug, []).append(chart)
    return html(document, charts=drawn, template=request.template, language=request.language)


def _markdown(document: Document, request: Request, path: Path, *, written: dict[str, bytes]) -> str:
    """The report as Markdown; the charts' files are written and put into `written`."""
    files = path.parent / f"{path.stem}_files"
    links: dict[str, list[ChartLink]] = {}
    for slug, chart in _charts(document):
        files.mkdir(exist_ok=True)
        name = f"{slug}-{chart.name}"
        for file, content in ((f"{name}.png", chart.png), (f"{name}.svg", chart.svg)):
            write_atomically(files / file, content)
            written[file] = content
        links.setdefault(slug, []).append(_link(chart, f"{files.name}/{name}"))
    return markdown(document, charts=links, template=request.template, language=request.language)


# More than any chart can show; without one the report need not wait for matplotlib.
MOST_CASES = 240


def _charts(document: Document) -> Iterator[tuple[str, Chart]]:
    """Every chart, with the slug of its section."""
    sections = [section for section in document.sections if len(section.comparison.cases) <= MOST_CASES]
    if not sections:
        return
    from dlperf.report.charts import charts  # noqa: PLC0415  half a second

    for section in sections:
        for chart in charts(section.comparison, title=plain_text(section.title), variants=document.variants):
            yield section.slug, chart


def _link(chart: Chart, stem: str) -> ChartLink:
    return ChartLink(png=f"{stem}.png", svg=f"{stem}.svg", alt=chart.alt)
