"""A document and its charts through a template, in a form and a language."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from dlperf.errors import UserError
from dlperf.files import shipped_folder
from dlperf.report import html as html_form
from dlperf.report import markdown as markdown_form
from dlperf.report.columns import View
from dlperf.report.document import Document
from dlperf.report.markdown import Markdown
from dlperf.report.text import Anchor, Code, Joined, Link, Text, Writer, plural, say

if TYPE_CHECKING:
    from dlperf.report.charts import Chart  # loads matplotlib

Language = Literal["en", "zh"]

ENGLISH: Final = "en"
LANGUAGES: Final[Mapping[Language, str]] = {ENGLISH: "en", "zh": "zh-Hans"}  # BCP 47 tags for HTML


def messages(language: Language) -> Mapping[str, str]:
    """Translation by English message; empty for English."""
    if language == ENGLISH:
        return MappingProxyType({})
    path = shipped_folder("templates") / f"{language}.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return MappingProxyType(found)


TEMPLATES: Final = {"md": "report.md.j2", "html": "report.html.j2"}
_CONTENT = (str, Text, Code, Link, Anchor, Joined)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLink:
    """A chart beside the report: paths of its files from there, and what it shows."""

    png: str
    svg: str
    alt: str


def markdown(
    document: Document,
    *,
    charts: Mapping[str, Sequence[ChartLink]],
    template: Path | None = None,
    language: Language = ENGLISH,
) -> str:
    """The report as GitHub's Markdown.

    Args:
        document: what it says.
        charts: by the slug of a section.
        template: a jinja2 file in place of the shipped one; it is trusted, the results are not.
        language: of the sentences that are ours.

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
    text = _rendered(environment, template, TEMPLATES["md"], document=document, charts=charts)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def html(
    document: Document,
    *,
    charts: Mapping[str, Sequence[Chart]],
    template: Path | None = None,
    language: Language = ENGLISH,
) -> str:
    """The report as one HTML file that asks the network for nothing; arguments and errors as `markdown`."""
    write = html_form.html_writer(messages(language))
    environment = _environment(template, autoescape=True)
    environment.finalize = lambda value: value if isinstance(value, Markup) else _markup(write, value)
    environment.filters.update({"table": lambda content: html_form.table(content, write), "svg": _svg})
    environment.globals.update({"asset": _asset, "hash": _hash, "language": LANGUAGES[language]})
    text = _rendered(environment, template, TEMPLATES["html"], document=document, charts=charts)
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


def _content(value: Any) -> str | Text | Code | Link | Anchor | Joined:
    return value if isinstance(value, _CONTENT) else str(value)


def _markup(write: Writer, value: Any) -> Markup:
    return Markup(write(_content(value)))  # noqa: S704  the writer escapes


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


Form = Literal["md", "html"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What decides a report beside the results.

    Args:
        paths: results folders, folders of sweeps, or `published:NAME`.
        form: Markdown or HTML.
        language: of the sentences that are ours.
        certificates: of `dlperf align`; without any, align*.json in the results' folders.
        qualification: a file of `dlperf qualify`, for the noise of the machines.
        template: a jinja2 file in place of the shipped one; it is trusted, the results are not.
        view: columns, baseline, groups and price.
    """

    paths: tuple[Path, ...]
    form: Form = "md"
    language: Language = ENGLISH
    certificates: tuple[Path, ...] = ()
    qualification: Path | None = None
    template: Path | None = None
    view: View = field(default_factory=View)


def without_charts(document: Document, request: Request) -> str:
    """The report as text, in its form and language."""
    render = markdown if request.form == "md" else html
    return render(document, charts={}, template=request.template, language=request.language)
