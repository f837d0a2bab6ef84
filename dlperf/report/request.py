"""What is asked of a report, and the report as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dlperf.report.document import Document
from dlperf.report.language import ENGLISH, Language
from dlperf.report.render import html, markdown
from dlperf.report.view import View

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
