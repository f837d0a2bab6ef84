"""A document and its charts through a template."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2

from dlperf.errors import UserError
from dlperf.report.markdown import Markdown, code, escape, table
from dlperf.report.numbers import plural
from dlperf.shipped import shipped_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dlperf.report.document import Document

TEMPLATE = "report.md.j2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLink:
    """A chart beside the report: paths of its files from there, and what it shows."""

    png: str
    svg: str
    alt: str


def markdown(
    document: Document, *, charts: Mapping[str, Sequence[ChartLink]], template: Path | None = None
) -> str:
    """The report as GitHub's Markdown.

    Args:
        document: what it says.
        charts: by the slug of a section.
        template: a jinja2 file in place of the shipped one; it is trusted, the results are not.

    Raises:
        UserError: the template cannot be read or does not work.
    """
    shipped = shipped_folder("templates")
    folder, name = (template.parent, template.name) if template else (shipped, TEMPLATE)
    try:
        text = _environment(folder, shipped).get_template(name).render(document=document, charts=charts)
    except jinja2.TemplateNotFound as error:
        raise UserError(f"{folder / (error.name or name)}: no such template") from error
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{error.filename or name}:{error.lineno}: {error.message}") from error
    except jinja2.TemplateError as error:
        raise UserError(f"{folder / name}: {error}") from error
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def _environment(*folders: Path) -> jinja2.Environment:
    """Templates are looked for in the folders in turn, so that one's own can include the shipped ones."""
    # Autoescape is for HTML. Here every value goes through _finalize, which escapes for Markdown.
    environment = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({"table": table, "code": code, "plural": plural, "link": _link})
    return environment


def _finalize(value: Any) -> Markdown:
    return value if isinstance(value, Markdown) else escape(str(value))


def _link(target: str) -> Markdown:
    """A path for the parentheses of a link: nothing in it ends them."""
    return Markdown(quote(target, safe="/"))
