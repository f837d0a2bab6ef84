"""Findings as documents for people and CI: Markdown, a pull request's comment, JSON, JUnit, annotations."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from dlperf import __version__
from dlperf.compare.metrics import Verdict
from dlperf.compare.words import (
    HEADINGS,
    NUMBERS,
    cells,
    framework_name,
    headline,
    notable,
    sentence,
    shown,
    summary,
)
from dlperf.logs.text import plain
from dlperf.report.markdown import escape, markdown_writer, table
from dlperf.report.text import Column, Table
from dlperf.results.cell import cell_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.compare.finding import Finding, Findings

FINDINGS_SCHEMA_VERSION = 1
MOST_COMMENT_LINES = 20
_FAILED = frozenset({Verdict.MISSING, Verdict.NOT_COMPARABLE})


def markdown(findings: Findings) -> str:
    """A whole page, for a step's summary: the answer, what changed, everything else folded."""
    lines = _opening(findings)
    rows = notable(findings)
    if rows:
        lines += [_table(rows), ""]
    lines += [f"- {escape(note)}" for note in findings.notes]
    lines += ["", *_folded(f"All cases by {findings.metric.title}", _table(shown(findings)))]
    if findings.new:
        names = "\n".join(
            f"- {escape(f'{one.case.framework} {one.case.version} {cell_name(one.case)}')}"
            for one in findings.new
        )
        lines += ["", *_folded("Without a baseline", names)]
    return "\n".join(lines).rstrip() + "\n"


def comment(findings: Findings) -> str:
    """A comment on a pull request: at most 20 lines, and none at all where nothing changed."""
    rows = notable(findings)
    if not rows:
        return ""
    room = MOST_COMMENT_LINES - 10  # the opening, the table's head, the fold and a line for the rest
    lines = [*_opening(findings), _table(rows[:room])]
    if len(rows) > room:
        lines.append(f"\nand {len(rows) - room} more")
    notes = " ".join(escape(note) + "." for note in findings.notes)
    return "\n".join([*lines, "", f"<details><summary>method</summary>{notes} {_METHOD}</details>", ""])


_METHOD = (
    "Log scale, blocks where runs have them, variances moderated over the cases, Benjamini-Hochberg at 5 %; "
    "a change counts from the margin on."
)


def _opening(findings: Findings) -> list[str]:
    sides = f"{escape(findings.candidate)} against {escape(findings.baseline)}"
    return [f"**dlperf: {escape(headline(findings))}** ({sides})", "", escape(summary(findings)), ""]


def _table(rows: Sequence[Finding]) -> str:
    columns = tuple(Column(heading=name, numbers=name in NUMBERS) for name in HEADINGS)
    content = Table(caption="findings", columns=columns, rows=tuple(cells(row) for row in rows))
    return table(content, markdown_writer())


def _folded(title: str, content: str) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", content, "", "</details>"]


def as_json(findings: Findings, *, exit_code: int) -> str:
    """Everything, for programs; where there is no number stands null and a reason."""
    content = {
        "schema_version": FINDINGS_SCHEMA_VERSION,
        "dlperf_version": __version__,
        "baseline": findings.baseline,
        "candidate": findings.candidate,
        "headline": headline(findings),
        "exit_code": exit_code,
        "counts": {verdict.value: findings.count(verdict) for verdict in Verdict},
        "findings": [_entry(row) for row in findings.rows],
        "new": [one.case.case_id for one in findings.new],
        "notes": list(findings.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _entry(row: Finding) -> dict[str, Any]:
    judged = row.judged
    before, after = row.figures
    return {
        "baseline_case": row.baseline.case.case_id,
        "candidate_case": row.candidate.case.case_id if row.candidate else None,
        "metric": row.metric.name,
        "unit": row.metric.unit,
        "better": row.metric.better,
        "verdict": row.verdict.value,
        "reason": row.reason,
        "baseline": before,
        "candidate": after,
        "ratio": row.ratio,
        "ratio_low": judged.low if judged else None,
        "ratio_high": judged.high if judged else None,
        "p": judged.p if judged else None,
        "adjusted_p": judged.adjusted_p if judged else None,
        "margin": judged.margin if judged else None,
        "noise_floor": row.noise_floor.value if row.noise_floor else None,
        "noise_floor_sessions": row.noise_floor.sessions if row.noise_floor else None,
        "blocked": judged.contrast.blocked if judged else None,
        "runs": list(judged.contrast.runs) if judged else [len(_runs(row, 0)), len(_runs(row, 1))],
        "runs_to_settle": judged.runs_to_settle if judged else None,
        "differences": [
            {"what": one.guard, "baseline": one.baseline, "candidate": one.candidate}
            for one in row.differences
        ],
        "expected": row.expected.model_dump(mode="json") if row.expected else None,
    }


def _runs(row: Finding, side: int) -> dict[str, float]:
    one = (row.baseline, row.candidate)[side]
    return one.values(row.metric) if one is not None else {}


def junit(findings: Findings) -> str:
    """JUnit XML: one test a finding. A regression fails, a missing case is an error, no verdict a skip.

    The answer and the notes are what the suite printed.
    """
    suite = ET.Element(
        "testsuite",
        name="dlperf",
        tests=str(len(findings.rows)),
        failures=str(len(findings.regressions)),
        errors=str(sum(row.verdict in _FAILED and row.expected is None for row in findings.rows)),
        skipped=str(sum(_is_skipped(row) for row in findings.rows)),
    )
    names = Counter(map(_test_name, findings.rows))
    for row in findings.rows:
        classname, name = _test_name(row)
        if (
            names[classname, name] > 1
        ):  # they differ in options or threads, and CI takes equal names for one test
            name = f"{name} {row.baseline.case.content_hash}"
        test = ET.SubElement(suite, "testcase", classname=classname, name=name)
        message = plain(sentence(row))
        if row.is_regression:
            ET.SubElement(test, "failure", message=message, type=row.verdict.value)
        elif row.verdict in _FAILED and row.expected is None:
            ET.SubElement(test, "error", message=message, type=row.verdict.value)
        elif _is_skipped(row):
            ET.SubElement(test, "skipped", message=message)
    said = [headline(findings), *(f"note: {note}" for note in findings.notes)]
    ET.SubElement(suite, "system-out").text = "\n".join(map(plain, said))
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _test_name(row: Finding) -> tuple[str, str]:
    return plain(framework_name(row)), plain(f"{cell_name(row.baseline.case)} {row.metric.title}")


def _is_skipped(row: Finding) -> bool:
    return row.verdict is Verdict.INCONCLUSIVE or row.expected is not None


def workflow_commands(findings: Findings) -> str:
    """Annotations of GitHub Actions: errors for regressions, warnings for what could not be compared.

    GitHub shows the first ten of a kind. The notes are one annotation, before all other notices.
    """
    rows = notable(findings)
    lines = [_annotation(row) for row in rows if _annotated_as(row) != "notice"]
    if findings.notes:
        lines.append("::notice title=dlperf notes::" + "%0A".join(map(_data, findings.notes)))
    lines += [_annotation(row) for row in rows if _annotated_as(row) == "notice"]
    undecided = [row for row in findings.rows if row.verdict is Verdict.INCONCLUSIVE]
    if undecided:
        first = _data(sentence(undecided[0]))
        lines.append(
            f"::notice title=dlperf inconclusive::{len(undecided)} without a verdict, such as {first}"
        )
    return "".join(f"{line}\n" for line in lines)


def _annotation(row: Finding) -> str:
    title = f"dlperf {row.verdict.value.replace('_', ' ')}"
    return f"::{_annotated_as(row)} title={title}::{_data(sentence(row))}"


def _annotated_as(row: Finding) -> str:
    if row.is_regression:
        return "error"
    return "warning" if row.verdict in _FAILED and row.expected is None else "notice"


def _data(text: str) -> str:
    """One line as a workflow command's message."""
    return plain(text).replace("%", "%25")
