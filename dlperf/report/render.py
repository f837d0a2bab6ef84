"""A document and its charts through a template, in a form and a language, and onto the disk.

In HTML as in Markdown nothing that comes from a YAML file, a log or a machine can mark anything up.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from markupsafe import escape as escaped

from dlperf.errors import UserError
from dlperf.files import shipped_folder, write_atomically
from dlperf.logs.text import plain
from dlperf.report import markdown as markdown_form
from dlperf.report.document import Document, Language, Request
from dlperf.report.markdown import Markdown
from dlperf.report.record import record_of
from dlperf.report.text import (
    CONTENT,
    Code,
    Column,
    Inline,
    Table,
    Writer,
    plain_text,
    plural,
    say,
)

if TYPE_CHECKING:
    from dlperf.report.charts import Chart  # loads matplotlib

ENGLISH: Final = "en"
LANGUAGES: Final[Mapping[Language, str]] = {ENGLISH: "en", "zh": "zh-Hans"}  # BCP 47 tags for HTML
# More than any chart can show; without one the report need not wait for matplotlib.
MOST_CASES: Final = 240
_STRONG = re.compile(r"\*\*(.+?)\*\*")
_CODE = re.compile(r"`(.+?)`")


# By the slug of a section: the charts, or of those beside the report the paths from there and what they show.
Charts = Mapping[str, Sequence["Chart | Mapping[str, str]"]]


def write_report(document: Document, request: Request, path: Path) -> None:
    """Write the report to `path`: one HTML file, or Markdown with its charts in `<stem>_files/` beside it.

    The charts come first, the document last; behind it stands the record of what it was made from. UserError
    where the template does not work, OSError where the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = draw_charts(document)
    charts: Charts = drawn
    files: dict[str, bytes] = {}
    if request.form == "md":
        folder = path.parent / f"{path.stem}_files"
        links: dict[str, list[Mapping[str, str]]] = {slug: [] for slug in drawn}
        for slug, chart in ((slug, chart) for slug, own in drawn.items() for chart in own):
            png, svg = f"{slug}-{chart.name}.png", f"{slug}-{chart.name}.svg"
            files |= {png: chart.png, svg: chart.svg}
            links[slug].append(
                {"png": f"{folder.name}/{png}", "svg": f"{folder.name}/{svg}", "alt": chart.alt}
            )
        charts = links
        for name, content in files.items():
            folder.mkdir(exist_ok=True)
            write_atomically(folder / name, content)
    text = render(document, request, charts=charts)
    record = record_of(document, request, folder=path.parent, text=text, charts=files)
    write_atomically(path, (text + record.comment()).encode())


def draw_charts(document: Document) -> dict[str, list[Chart]]:
    """Every chart, by the slug of its section."""
    sections = [section for section in document.sections if len(section.comparison.cases) <= MOST_CASES]
    if not sections:
        return {}
    from dlperf.report.charts import charts  # noqa: PLC0415  half a second

    return {
        section.slug: charts(section.comparison, plain_text(section.title), variants=document.variants)
        for section in sections
    }


def messages(language: Language) -> Mapping[str, str]:
    """Translation by English message; empty for English."""
    if language == ENGLISH:
        return MappingProxyType({})
    found: dict[str, str] = json.loads((shipped_folder("templates") / f"{language}.json").read_bytes())
    return found


def render(document: Document, request: Request, *, charts: Charts = MappingProxyType({})) -> str:
    """The report as GitHub's Markdown, or as one HTML file that asks the network for nothing.

    UserError where the template cannot be read or does not work.
    """
    folders = [request.template.parent] if request.template else []
    environment = jinja2.Environment(
        # Beside the given template first, so that it can include the shipped ones.
        loader=jinja2.FileSystemLoader([*folders, shipped_folder("templates")]),
        undefined=jinja2.StrictUndefined,
        autoescape=request.form == "html",  # noqa: S701  in Markdown the writer escapes every value
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({"code": Code, "plural": plural})
    environment.globals["say"] = say
    if request.form == "html":
        write = html_writer(messages(request.language))
        environment.finalize = lambda value: (
            value if isinstance(value, Markup) else Markup(write(_content(value)))  # noqa: S704  it escapes
        )
        environment.filters.update({"table": lambda content: html_table(content, write), "svg": _svg})
        environment.globals.update({"asset": _asset, "hash": _hash, "language": LANGUAGES[request.language]})
    else:
        write = markdown_form.markdown_writer(messages(request.language))
        environment.finalize = lambda value: value if isinstance(value, Markdown) else write(_content(value))
        environment.filters.update(
            {
                "table": lambda content: markdown_form.table(content, write),
                "anchor": lambda name: markdown_form.anchor("", name),
                "link": lambda path: Markdown(quote(path, safe="/")),
            }
        )
    text = _rendered(environment, request, document=document, charts=charts)
    if request.form == "md":
        text = re.sub(r"\n{3,}", "\n\n", text)
    return text.rstrip("\n") + "\n"


def _rendered(environment: jinja2.Environment, request: Request, **values: Any) -> str:
    template = request.template or shipped_folder("templates") / f"report.{request.form}.j2"
    try:
        return environment.get_template(template.name).render(**values)
    except jinja2.TemplateNotFound as error:
        raise UserError(f"{template.parent / (error.name or template.name)}: no such template") from error
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{error.filename or template.name}:{error.lineno}: {error.message}") from error
    except Exception as error:
        if request.template is None:
            raise  # a shipped template is our own program
        raise UserError(f"{_line_of(error, template)}: {_said(error)}") from error


def _line_of(error: Exception, template: Path) -> str:
    """The template and the last of its lines on the way to the error, where one was reached."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(template)
    ]
    return f"{template}:{lines[-1]}" if lines else str(template)


def _said(error: Exception) -> str:
    """Jinja's own errors are sentences; the others need their type (`KeyError: 'x'`)."""
    return str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"


def _content(value: Any) -> Inline:
    return value if isinstance(value, CONTENT) else str(value)


def _asset(name: str) -> Markup:
    """A shipped file for within a <style> or a <script>."""
    return Markup((shipped_folder("templates") / name).read_text(encoding="utf-8"))  # noqa: S704  our own


def _hash(name: str) -> str:
    """What a content security policy calls the asset by: no other script runs."""
    digest = hashlib.sha256(_asset(name).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _svg(chart: Chart) -> Markup:
    """The picture itself, without the declaration that only a file has."""
    text = chart.svg.decode()
    return Markup(text[text.index("<svg") :])  # noqa: S704  drawn by us, its text escaped


def html_writer(messages: Mapping[str, str] = MappingProxyType({})) -> Writer:
    """Content as HTML, in the language of the messages."""
    return Writer(
        escape=_escape,
        code=lambda text: f"<code>{_escape(text)}</code>" if text else "",
        link=lambda content, target: f'<a href="{_escape(target)}">{content}</a>',
        anchor=lambda content, name: f'<span id="{_escape(name)}">{content}</span>',
        markup=_markup,
        messages=messages,
    )


def _escape(text: str) -> str:
    """The text as it will be read, on one line."""
    return str(escaped(plain(text)))


def _markup(message: str) -> str:
    return _CODE.sub(r"<code>\1</code>", _STRONG.sub(r"<strong>\1</strong>", str(escaped(message))))


def html_table(content: Table, write: Writer) -> Markup:
    """A table with its caption; the page's program makes it sortable and filterable."""
    caption, heading = write(content.caption), "".join(_heading(column, write) for column in content.columns)
    kinds = [' class="number"' if column.numbers else "" for column in content.columns]
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{write(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in content.rows
    )
    label = re.sub(r"<[^>]*>", "", caption)
    return Markup(  # noqa: S704  every piece went through the writer
        f'<div class="table" tabindex="0" role="region" aria-label="{label}">\n'
        f"<table>\n<caption>{caption}</caption>\n"
        f"<thead>\n<tr>{heading}</tr>\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _heading(column: Column, write: Writer) -> str:
    kind = ' class="number"' if column.numbers else ""
    # device_num_per_node may take several lines; a heading holds no link whose target this would change.
    heading = write(column.heading).replace("_", "_<wbr>")
    return f'<th scope="col"{kind}>{heading}</th>'
