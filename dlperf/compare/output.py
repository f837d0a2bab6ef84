"""Comparison as documents for people and CI: Markdown, a pull request's comment, JSON, JUnit, annotations."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from xml.etree import ElementTree as ET

from dlperf.compare.sets import IMPROVEMENTS, LIMITS, MEMORY, REGRESSIONS, Metric, Verdict
from dlperf.compare.verdicts import OTHER_SESSION, CaseVerdict, Comparison
from dlperf.logs.text import plain
from dlperf.report.markdown import escape, markdown_writer, table
from dlperf.report.numbers import mebibytes, percent, rate
from dlperf.report.text import Column, Table
from dlperf.results.cases import cell_name
from dlperf.results.noise_profile import NoiseProfile
from dlperf.version import __version__
from dlperf.wording import plural

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
    return f"{percent(margin)} ({plural(floor.sessions, 'session') if floor.sessions else 'A/A noise'})"


def value(metric: Metric, number: float | None) -> str:
    """A figure with as many digits as are read; what is no number is said elsewhere."""
    if number is None:
        return "none"
    if metric in MEMORY:
        return f"{mebibytes(number)} MiB"
    return f"{number:.0f}" if metric in LIMITS else rate(number)


def change(ratio: float | None) -> str:
    """`-3.1 %` for a ratio of 0.969."""
    # Adding 0 turns -0.0, which would be printed as such, into 0.
    return "" if ratio is None else f"{round(100 * (ratio - 1), 2) + 0:+.2f} %"


def verdict_words(finding: CaseVerdict) -> str:
    """The verdict, and that it was expected, or that it fails nothing."""
    if finding.expected:
        return f"{_words(finding.verdict)} (expected)"
    reported = finding.verdict in REGRESSIONS and not finding.fails
    return _words(finding.verdict) + (" (reported only)" if reported else "")


def _words(verdict: Verdict) -> str:
    return verdict.value.replace("_", " ")


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
        f"{count} {_words(verdict)}"
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
        return f"no verdict: the runs do not tell{_what_would(findings)}"
    if unknown:
        return "no regression found, but not every case has a verdict"
    return "no regression"


_TOLD = REGRESSIONS | IMPROVEMENTS | {Verdict.SAME}


def _what_would(findings: Comparison) -> str:
    """What would settle it, where that can be said."""
    if any(row.reason == OTHER_SESSION for row in findings.cases):
        return "; run both sides in turns (`dlperf gate`) or measure the noise (`dlperf qualify` on two days)"
    runs = [row.test.runs_to_settle for row in findings.cases if row.test and row.test.runs_to_settle]
    return f"; about {max(runs)} runs per side would settle it" if runs else ""


def notable(findings: Comparison) -> tuple[CaseVerdict, ...]:
    """What a reader who wants no details must see: changes, and what could not be compared.

    Regressions first; what keeps a case from being compared is said once.
    """
    kept: list[CaseVerdict] = []
    barred: set[tuple[int, str | None]] = set()
    for verdicts in (REGRESSIONS, {Verdict.MISSING}, {Verdict.NOT_COMPARABLE}, IMPROVEMENTS):
        rows = [row for row in findings.rows if row.verdict in verdicts]
        for row in sorted(rows, key=lambda row: not row.is_regression):
            why_barred = (id(row.baseline), row.reason)
            if row.verdict is Verdict.NOT_COMPARABLE and why_barred in barred:
                continue
            barred.add(why_barred)
            kept.append(row)
    return tuple(kept)


def shown(findings: Comparison) -> tuple[CaseVerdict, ...]:
    """The notable rows, and of the other cases the one on the metric that they are counted by."""
    first = notable(findings)
    some = {id(row) for row in first}
    return (*first, *(row for row in findings.cases if id(row) not in some))


def noise_profile_line(found: NoiseProfile) -> str:
    """When and how the machine was qualified, and how often equal sides looked like a regression."""
    days = found.days
    when = "" if not days else f" on {days[0]}" if len(days) == 1 else f" {days[0]} to {days[-1]}"
    if len(found.sessions) > 1:
        when += f" in {len(found.sessions)} sessions"
    runs = " or ".join(map(str, found.runs))
    return (
        f"qualified{when}: {found.false_alarms} of {plural(found.splits, 'split')} of the A/A runs of "
        f"{plural(found.cases, 'case')} ({runs} a side) raised a false alarm"
    )


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
        "schema_version": 1,
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
    test, floor = row.test, row.noise_floor
    runs = [len(one.values(row.metric)) if one else 0 for one in (row.baseline, row.candidate)]
    return {
        "baseline_case": row.baseline.case.case_id,
        "candidate_case": row.candidate.case.case_id if row.candidate else None,
        "metric": row.metric.name,
        "unit": row.metric.unit,
        "better": row.metric.better,
        "verdict": row.verdict.value,
        "fails": row.is_regression,
        "reason": row.reason,
        "baseline": row.figures[0],
        "candidate": row.figures[1],
        "ratio": row.ratio,
        "ratio_low": test.low if test else None,
        "ratio_high": test.high if test else None,
        "p": test.p if test else None,
        "adjusted_p": test.adjusted_p if test else None,
        "margin": test.margin if test else None,
        "noise_floor": floor.value if floor else None,
        "noise_floor_sessions": floor.sessions if floor else None,
        "blocked": test.effect.blocked if test else None,
        "runs": list(test.effect.runs) if test else runs,
        "runs_to_settle": test.runs_to_settle if test else None,
        "differences": [
            {"what": one.guard, "baseline": one.baseline, "candidate": one.candidate}
            for one in row.differences
        ],
        "expected": row.expected.model_dump(mode="json") if row.expected else None,
    }


def junit(findings: Comparison) -> str:
    """JUnit XML: one test a finding. A regression fails, a missing case is an error, no verdict a skip.

    The answer and the notes are what the suite printed.
    """
    outcomes = [_junit_outcome(row) for row in findings.rows]
    suite = ET.Element(
        "testsuite",
        name="dlperf",
        tests=str(len(outcomes)),
        failures=str(outcomes.count("failure")),
        errors=str(outcomes.count("error")),
        skipped=str(outcomes.count("skipped")),
    )
    names = [
        (plain(framework_name(row)), plain(f"{cell_name(row.baseline.case)} {row.metric.title}"))
        for row in findings.rows
    ]
    counts = Counter(names)
    for row, outcome, (classname, name) in zip(findings.rows, outcomes, names, strict=True):
        # Cases that differ in options or threads: CI takes equal names for one test.
        twin = f" {row.baseline.case.content_hash}" if counts[classname, name] > 1 else ""
        test = ET.SubElement(suite, "testcase", classname=classname, name=name + twin)
        if outcome is not None:
            kind = {} if outcome == "skipped" else {"type": row.verdict.value}
            ET.SubElement(test, outcome, {"message": plain(sentence(row))} | kind)
    said = [headline(findings), *(f"note: {note}" for note in findings.notes)]
    ET.SubElement(suite, "system-out").text = "\n".join(map(plain, said))
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _junit_outcome(row: CaseVerdict) -> str | None:
    if row.is_regression:
        return "failure"
    if row.verdict in {Verdict.INCONCLUSIVE, *REGRESSIONS} or row.expected is not None:
        return "skipped"
    return "error" if row.verdict in _FAILED else None


def workflow_commands(findings: Comparison) -> str:
    """Annotations of GitHub Actions: errors for regressions, warnings for what could not be compared.

    GitHub shows the first ten of a kind. The notes are one annotation, before all other notices.
    """
    alarms: list[str] = []
    notices: list[str] = []
    for row in notable(findings):
        failed = row.verdict in _FAILED and row.expected is None
        kind = "error" if row.is_regression else "warning" if failed else "notice"
        line = f"::{kind} title=dlperf {_words(row.verdict)}::{_data(sentence(row))}"
        (notices if kind == "notice" else alarms).append(line)
    if findings.notes:
        alarms.append("::notice title=dlperf notes::" + "%0A".join(map(_data, findings.notes)))
    undecided = [row for row in findings.rows if row.verdict is Verdict.INCONCLUSIVE]
    if undecided:
        first = _data(sentence(undecided[0]))
        notices.append(
            f"::notice title=dlperf inconclusive::{len(undecided)} without a verdict, such as {first}"
        )
    return "".join(f"{line}\n" for line in (*alarms, *notices))


def _data(text: str) -> str:
    """One line as a workflow command's message."""
    return plain(text).replace("%", "%25")


OK: Final = 0
REGRESSION: Final = 1
MISSING: Final = 3
UNDECIDED: Final = 4


def exit_code(findings: Comparison, *, strict: bool) -> int:
    """The code that CI sees.

    1 a regression; 3 cases missing or not comparable, or none in common; 4 no case has a verdict, or (strict
    alone) some have none; else 0.
    """
    if findings.regressions:
        return REGRESSION
    if not findings.rows or any(row.verdict in _FAILED and row.expected is None for row in findings.rows):
        return MISSING
    nothing_told = not any(row.verdict in _TOLD for row in findings.cases)
    return UNDECIDED if nothing_told or (strict and findings.count(Verdict.INCONCLUSIVE)) else OK
