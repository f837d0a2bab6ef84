"""What every number rests on: each case's runs, with links to their folders and fingerprints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from dlperf.report.numbers import rate
from dlperf.report.tables import status_word
from dlperf.report.text import Anchor, Column, Inline, Link, Table, say
from dlperf.results.cases import CaseFigures
from dlperf.results.query import run_digest

CaseKey = tuple["Path", str, str]


def case_key(figure: CaseFigures) -> CaseKey:
    """What no two cases of a report share."""
    return (figure.sweep, figure.hardware, figure.case.content_hash)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Anchors of the cases in the list of runs; empty where a report has no such list."""

    anchors: Mapping[CaseKey, str] = field(default_factory=dict)

    @classmethod
    def of(cls, figures: Sequence[CaseFigures]) -> Evidence:
        """Numbered in the order of the figures; a case without a run has no evidence."""
        ran = (figure for figure in figures if figure.runs)
        return cls(anchors={case_key(figure): f"e{number}" for number, figure in enumerate(ran, 1)})

    def link(self, figure: CaseFigures, content: Inline) -> Inline:
        """The content, leading to the runs of the case."""
        name = self.anchors.get(case_key(figure))
        return content if name is None or content == "" else Link(content, f"#{name}")

    def table(
        self, figures: Sequence[CaseFigures], *, beside: Path, sources: Mapping[Path, Mapping[str, str]]
    ) -> Table | None:
        """A row a run.

        Args:
            figures: the cases.
            beside: the folder of the report, from which the links to the run folders start.
            sources: of the run folders, `dlperf.results.query.run_sources`.
        """
        headings = (say("case"), say("run"), say("status"))
        columns = (
            *(Column(heading=heading) for heading in headings),
            Column(heading=say("samples/s"), numbers=True),
            Column(heading=say("SHA-256 of case, outcome and logs")),
        )
        rows = []
        for figure in figures:
            name = self.anchors.get(case_key(figure), "")
            for number, run in enumerate(figure.runs):
                case: Inline = figure.case.case_id
                result = run.result
                rows.append(
                    (
                        Anchor(case, name) if number == 0 else case,
                        Link(run.folder.name, link_to(run.folder, beside=beside) + "/"),
                        status_word(result.status),
                        rate(result.figures.samples_per_sec) if result.figures else "",
                        run_digest(sources[run.folder]) if run.folder in sources else "",
                    )
                )
        return Table(caption=say("Evidence"), columns=columns, rows=tuple(rows)) if rows else None


def link_to(path: Path, *, beside: Path) -> str:
    """The path from a folder on, quoted for a link."""
    folder = _relative(path.parent, beside)
    return quote(path.name if folder == os.curdir else f"{folder}/{path.name}", safe="/")


@lru_cache(maxsize=4096)
def _relative(folder: Path, beside: Path) -> str:
    """The way from one folder to another; the runs of a case share theirs."""
    return os.path.relpath(folder, beside)
