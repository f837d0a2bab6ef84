"""A document and its charts through a template, in a form and a language, and onto the disk.

In HTML as in Markdown nothing that comes from a YAML file, a log or a machine can mark anything up.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    Anchor,
    Code,
    Column,
    Inline,
    Joined,
    Link,
    Table,
    Text,
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
_TEMPLATES: Final = {"md": "report.md.j2", "html": "report.html.j2"}
_CONTENT = (str, Text, Code, Link, Anchor, Joined)
_STRONG = re.compile(r"\*\*(.+?)\*\*")
_CODE = re.compile(r"`(.+?)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLink:
    """A chart beside the report: paths of its files from there, and what it shows."""

    png: str
    svg: str
    alt: str


def write_report(document: Document, request: Request, path: Path) -> None:
    """Write the report to `path`: one HTML file, or Markdown with its charts in `<stem>_files/` beside it.

    The charts come first, the document last; behind it stands the record of what it was made from.

    Raises:
        UserError: the template does not work.
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written: dict[str, bytes] = {}
    if request.form == "html":
        text = with_charts(document, request)
    else:
        files = path.parent / f"{path.stem}_files"
        links: dict[str, list[ChartLink]] = {}
        for slug, chart in _charts(document):
            files.mkdir(exist_ok=True)
            name = f"{slug}-{chart.name}"
            stem = f"{files.name}/{name}"
            link = ChartLink(png=f"{stem}.png", svg=f"{stem}.svg", alt=chart.alt)
            links.setdefault(slug, []).append(link)
            written |= {f"{name}.png": chart.png, f"{name}.svg": chart.svg}
        for name, content in written.items():
            write_atomically(files / name, content)
        text = markdown(document, charts=links, template=request.template, language=request.language)
    record = record_of(document, request, folder=path.parent, text=text, charts=written)
    write_atomically(path, (text + record.comment()).encode())


def with_charts(document: Document, request: Request) -> str:
    """The report as HTML with its charts within it."""
    drawn: dict[str, list[Chart]] = {}
    for slug, chart in _charts(document):
        drawn.setdefault(slug, []).append(chart)
    return html(document, charts=drawn, template=request.template, language=request.language)


def without_charts(document: Document, request: Request) -> str:
    """The report as text, in its form and language."""
    render = markdown if request.form == "md" else html
    return render(document, charts={}, template=request.template, language=request.language)


def _charts(document: Document) -> Iterator[tuple[str, Chart]]:
    """Every chart, with the slug of its section."""
    sections = [section for section in document.sections if len(section.comparison.cases) <= MOST_CASES]
    if not sections:
        return
    from dlperf.report.charts import charts  # noqa: PLC0415  half a second

    for section in sections:
        for chart in charts(section.comparison, title=plain_text(section.title), variants=document.variants):
            yield section.slug, chart


def messages(language: Language) -> Mapping[str, str]:
    """Translation by English message; empty for English."""
    if language == ENGLISH:
        return MappingProxyType({})
    found: dict[str, str] = json.loads((shipped_folder("templates") / f"{language}.json").read_bytes())
    return found


def markdown(
    document: Document,
    *,
    charts: Mapping[str, Sequence[ChartLink]],
    template: Path | None = None,
    language: Language = ENGLISH,
) -> str:
    """The report as GitHub's Markdown, with charts by the slug of a section.

    `template` is a jinja2 file in place of the shipped one; it is trusted, the results are not.

    Raises:
        UserError: the template cannot be read or does not work.
    """
    write = markdown_form.markdown_writer(messages(language))
    # Autoescape is for HTML. Here every value goes through the writer, which escapes for Markdown.
    environment = _environment(template, autoescape=False)
    environment.finalize = lambda value: value if isinstance(value, Markdown) else write(_content(value))
    environment.filters.update(
        {
            "table": lambda content: markdown_form.table(content, write),
            "anchor": lambda name: markdown_form.anchor("", name),
            "link": lambda path: Markdown(quote(path, safe="/")),
        }
    )
    text = _rendered(environment, template, _TEMPLATES["md"], document=document, charts=charts)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def html(
    document: Document,
    *,
    charts: Mapping[str, Sequence[Chart]],
    template: Path | None = None,
    language: Language = ENGLISH,
) -> str:
    """The report as one HTML file that asks the network for nothing; arguments and errors as `markdown`."""
    write = html_writer(messages(language))
    environment = _environment(template, autoescape=True)
    environment.finalize = lambda value: (
        value if isinstance(value, Markup) else Markup(write(_content(value)))  # noqa: S704  it escapes
    )
    environment.filters.update({"table": lambda content: html_table(content, write), "svg": _svg})
    environment.globals.update({"asset": _asset, "hash": _hash, "language": LANGUAGES[language]})
    text = _rendered(environment, template, _TEMPLATES["html"], document=document, charts=charts)
    return text.rstrip("\n") + "\n"


def _environment(template: Path | None, *, autoescape: bool) -> jinja2.Environment:
    """Templates are looked for beside the given one first, so that it can include the shipped ones."""
    folders = [template.parent] if template else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, shipped_folder("templates")]),
        undefined=jinja2.StrictUndefined,
        autoescape=autoescape,  # noqa: S701  Markdown is escaped by the writer
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({"code": Code, "plural": plural})
    environment.globals["say"] = say
    return environment


def _rendered(environment: jinja2.Environment, template: Path | None, shipped: str, **values: Any) -> str:
    name = template.name if template else shipped
    folder = template.parent if template else shipped_folder("templates")
    try:
        return environment.get_template(name).render(**values)
    except jinja2.TemplateNotFound as error:
        raise UserError(f"{folder / (error.name or name)}: no such template") from error
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{error.filename or name}:{error.lineno}: {error.message}") from error
    except Exception as error:
        if template is None:
            raise  # a shipped template is our own program
        raise UserError(f"{_place(error, template)}: {_said(error)}") from error


def _place(error: Exception, template: Path) -> str:
    """The template and the last of its lines on the way to the error, where one was reached."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(template)
    ]
    return f"{template}:{lines[-1]}" if lines else str(template)


def _said(error: Exception) -> str:
    """Jinja's own errors are sentences; the others need their type (`KeyError: 'x'`)."""
    return str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"


def _content(value: Any) -> Inline:
    return value if isinstance(value, _CONTENT) else str(value)


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
