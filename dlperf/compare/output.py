"""Comparison as documents for people and CI: Markdown, a pull request's comment, JSON, JUnit, annotations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final
from xml.etree import ElementTree as ET

from dlperf.compare.sets import IMPROVEMENTS, LIMITS, PEAK_MEMORY, REGRESSIONS, Metric, Verdict
from dlperf.compare.verdicts import CaseVerdict, Comparison
from dlperf.logs.text import plain
from dlperf.report.markdown import escape, markdown_writer, table
from dlperf.report.numbers import mebibytes, percent, plural, rate
from dlperf.report.text import Column, Table
from dlperf.results.cases import cell_name
from dlperf.results.noise_profile import NoiseProfile
from dlperf.version import __version__

HEADINGS = (
    "case", "framework", "metric", "baseline", "candidate", "change", "95 % interval", "margin",
    "runs", "verdict", "why",
)  # fmt: skip
NUMBERS = frozenset({"baseline", "candidate", "change", "margin", "runs"})


def framework_name(finding: CaseVerdict) -> str:
    """`mxnet 1.9.0 -> 1.9.1`, as short as tells what is compared."""
    before = finding.baseline.case
    after = finding.candidate.case if finding.candidate is not None else before
    if before.framework != after.framework:
        return f"{before.framework} {before.version} -> {after.framework} {after.version}"
    if before.version != after.version:
        return f"{before.framework} {before.version} -> {after.version}"
    return f"{before.framework} {before.version}"


def cells(finding: CaseVerdict) -> tuple[str, ...]:
    """A row under `HEADINGS`."""
    test = finding.test
    before, after = finding.figures
    return (
        cell_name(finding.baseline.case),
        framework_name(finding),
        finding.metric.title,
        value(finding.metric, before),
        value(finding.metric, after),
        change(finding.ratio),
        f"{change(test.low)} to {change(test.high)}" if test else "",
        _counts(finding),
        " and ".join(dict.fromkeys(str(count) for count in test.effect.runs)) if test else "",
        verdict_words(finding),
        why(finding),
    )


def _counts(finding: CaseVerdict) -> str:
    if finding.test is None:
        return ""
    floor, margin = finding.noise_floor, finding.test.margin
    if floor is None or floor.value < margin:
        return percent(margin)
    return f"{percent(margin)} ({f'{floor.sessions} sessions' if floor.sessions else 'A/A noise'})"


def value(metric: Metric, number: float | None) -> str:
    """A figure with as many digits as are read; what is no number is said elsewhere."""
    if number is None:
        return "none"
    if metric is PEAK_MEMORY:
        return f"{mebibytes(number)} MiB"
    return f"{number:.0f}" if metric in LIMITS else rate(number)


def change(ratio: float | None) -> str:
    """`-3.1 %` for a ratio of 0.969."""
    # Adding 0 turns -0.0, which would be printed as such, into 0.
    return "" if ratio is None else f"{round(100 * (ratio - 1), 2) + 0:+.2f} %"


def verdict_words(finding: CaseVerdict) -> str:
    """The verdict, and that it was expected."""
    words = finding.verdict.value.replace("_", " ")
    return f"{words} (expected)" if finding.expected else words


def why(finding: CaseVerdict) -> str:
    """What stands behind a verdict that is not the test's own."""
    if finding.expected is not None:
        return f"expected until {finding.expected.until}: {finding.expected.reason}"
    return finding.reason or ""


def sentence(finding: CaseVerdict) -> str:
    """One line about a finding, for a log or an annotation."""
    what = f"{framework_name(finding)}, {cell_name(finding.baseline.case)}: {finding.metric.title}"
    before, after = (value(finding.metric, figure) for figure in finding.figures)
    numbers = f"{before} to {after}" + (f" ({change(finding.ratio)})" if finding.ratio is not None else "")
    reason = f"; {why(finding)}" if why(finding) else ""
    return f"{what} {verdict_words(finding)}: {numbers}{reason}"


def summary(findings: Comparison) -> str:
    """Counts of the verdicts on the metric that cases are counted by, then of other metrics that changed."""
    parts = [
        f"{count} {verdict.value.replace('_', ' ')}"
        for verdict in Verdict
        if (count := sum(row.verdict is verdict for row in findings.cases))
    ]
    others = len([row for row in findings.regressions if row.metric is not findings.metric])
    if others:
        parts.append(f"{plural(others, 'regression')} of other metrics")
    if findings.new:
        parts.append(f"{len(findings.new)} without a baseline")
    compared = f"{plural(len(findings.cases), 'case')} compared by {findings.metric.title}"
    return f"{compared}: {', '.join(parts) or 'none'}"


def headline(findings: Comparison) -> str:
    """The answer first. Nothing found is not said to be nothing there where the runs cannot tell."""
    if findings.regressions:
        return plural(len(findings.regressions), "regression")
    unknown = findings.count(Verdict.INCONCLUSIVE, Verdict.NOT_COMPARABLE, Verdict.MISSING)
    if not any(row.verdict in _TOLD for row in findings.cases):
        return "no verdict: the runs do not tell"
    if unknown:
        return "no regression found, but not every case could be told"
    return "no regression"


_TOLD = REGRESSIONS | IMPROVEMENTS | {Verdict.SAME}


def notable(findings: Comparison) -> tuple[CaseVerdict, ...]:
    """What a reader who wants no details must see: changes, and what could not be compared."""
    quiet = {Verdict.SAME, Verdict.INCONCLUSIVE}
    return tuple(row for row in _by_weight(findings) if row.verdict not in quiet)


def shown(findings: Comparison) -> tuple[CaseVerdict, ...]:
    """The notable rows, and of the other cases the one on the metric that they are counted by."""
    some = {id(row) for row in notable(findings)}
    return (*notable(findings), *(row for row in findings.cases if id(row) not in some))


_WEIGHT = {
    Verdict.SLOWER: 0,
    Verdict.WORSE: 0,
    Verdict.MISSING: 1,
    Verdict.NOT_COMPARABLE: 2,
    Verdict.FASTER: 3,
    Verdict.BETTER: 3,
}


def _by_weight(findings: Comparison) -> Iterator[CaseVerdict]:
    """Regressions first; what keeps a case from being compared is said once."""
    seen: set[tuple[int, str | None]] = set()
    for row in sorted(findings.rows, key=lambda row: (_WEIGHT.get(row.verdict, 4), not row.is_regression)):
        if row.verdict is Verdict.NOT_COMPARABLE:
            if (id(row.baseline), row.reason) in seen:
                continue
            seen.add((id(row.baseline), row.reason))
        yield row


def noise_profile_line(found: NoiseProfile) -> str:
    """When and how the machine was qualified, and how often equal sides looked like a regression."""
    days = found.days
    when = "" if not days else f" on {days[0]}" if len(days) == 1 else f" {days[0]} to {days[-1]}"
    if len(found.sessions) > 1:
        when += f" in {len(found.sessions)} sessions"
    runs = " or ".join(map(str, found.runs))
    return (
        f"qualified{when}: {found.false_alarms} of {found.splits} splits of {plural(found.cases, 'case')}' "
        f"A/A runs ({runs} a side) raised a false alarm"
    )


# Comparison as documents for people and CI: Markdown, a pull request's comment, JSON, JUnit, annotations.


FINDINGS_SCHEMA_VERSION = 1
MOST_COMMENT_LINES = 20
_FAILED = frozenset({Verdict.MISSING, Verdict.NOT_COMPARABLE})


def markdown(findings: Comparison) -> str:
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


def comment(findings: Comparison) -> str:
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


def _opening(findings: Comparison) -> list[str]:
    sides = f"{escape(findings.candidate)} against {escape(findings.baseline)}"
    return [f"**dlperf: {escape(headline(findings))}** ({sides})", "", escape(summary(findings)), ""]


def _table(rows: Sequence[CaseVerdict]) -> str:
    columns = tuple(Column(heading=name, numbers=name in NUMBERS) for name in HEADINGS)
    content = Table(caption="findings", columns=columns, rows=tuple(cells(row) for row in rows))
    return table(content, markdown_writer())


def _folded(title: str, content: str) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", content, "", "</details>"]


def as_json(findings: Comparison, *, exit_code: int) -> str:
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


def _entry(row: CaseVerdict) -> dict[str, Any]:
    test = row.test
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
        "ratio_low": test.low if test else None,
        "ratio_high": test.high if test else None,
        "p": test.p if test else None,
        "adjusted_p": test.adjusted_p if test else None,
        "margin": test.margin if test else None,
        "noise_floor": row.noise_floor.value if row.noise_floor else None,
        "noise_floor_sessions": row.noise_floor.sessions if row.noise_floor else None,
        "blocked": test.effect.blocked if test else None,
        "runs": list(test.effect.runs) if test else [len(_runs(row, 0)), len(_runs(row, 1))],
        "runs_to_settle": test.runs_to_settle if test else None,
        "differences": [
            {"what": one.guard, "baseline": one.baseline, "candidate": one.candidate}
            for one in row.differences
        ],
        "expected": row.expected.model_dump(mode="json") if row.expected else None,
    }


def _runs(row: CaseVerdict, side: int) -> dict[str, float]:
    one = (row.baseline, row.candidate)[side]
    return one.values(row.metric) if one is not None else {}


def junit(findings: Comparison) -> str:
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


def _test_name(row: CaseVerdict) -> tuple[str, str]:
    return plain(framework_name(row)), plain(f"{cell_name(row.baseline.case)} {row.metric.title}")


def _is_skipped(row: CaseVerdict) -> bool:
    return row.verdict is Verdict.INCONCLUSIVE or row.expected is not None


def workflow_commands(findings: Comparison) -> str:
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


def _annotation(row: CaseVerdict) -> str:
    title = f"dlperf {row.verdict.value.replace('_', ' ')}"
    return f"::{_annotated_as(row)} title={title}::{_data(sentence(row))}"


def _annotated_as(row: CaseVerdict) -> str:
    if row.is_regression:
        return "error"
    return "warning" if row.verdict in _FAILED and row.expected is None else "notice"


def _data(text: str) -> str:
    """One line as a workflow command's message."""
    return plain(text).replace("%", "%25")


# Comparison -> the exit code of the process.


OK: Final = 0
REGRESSION: Final = 1
MISSING: Final = 3
UNDECIDED: Final = 4


def exit_code(findings: Comparison, *, strict: bool) -> int:
    """The code that CI sees.

    1 a regression; 3 cases missing or not comparable, or none in common; 4 (strict alone) some could not be
    told; else 0.
    """
    if findings.regressions:
        return REGRESSION
    lacking = {Verdict.MISSING, Verdict.NOT_COMPARABLE}
    if not findings.rows or any(row.verdict in lacking and row.expected is None for row in findings.rows):
        return MISSING
    if strict and findings.count(Verdict.INCONCLUSIVE):
        return UNDECIDED
    return OK
