"""Findings in words: the same on a terminal, in Markdown and in CI's annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.compare.metrics import IMPROVEMENTS, LIMITS, PEAK_MEMORY, REGRESSIONS, Verdict
from dlperf.report.numbers import mebibytes, percent, plural, rate
from dlperf.results.cell import cell_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlperf.compare.finding import Finding, Findings
    from dlperf.compare.metrics import Metric
    from dlperf.results.qualification import Qualification

HEADINGS = (
    "case", "framework", "metric", "baseline", "candidate", "change", "95 % interval", "smallest that counts",
    "runs", "verdict", "why",
)  # fmt: skip
NUMBERS = frozenset({"baseline", "candidate", "change", "smallest that counts", "runs"})


def framework_name(finding: Finding) -> str:
    """`mxnet 1.9.0 -> 1.9.1`, as short as tells what is compared."""
    before = finding.baseline.case
    after = finding.candidate.case if finding.candidate is not None else before
    if before.framework != after.framework:
        return f"{before.framework} {before.version} -> {after.framework} {after.version}"
    if before.version != after.version:
        return f"{before.framework} {before.version} -> {after.version}"
    return f"{before.framework} {before.version}"


def cells(finding: Finding) -> tuple[str, ...]:
    """A row under `HEADINGS`."""
    judged = finding.judged
    before, after = finding.figures
    return (
        cell_name(finding.baseline.case),
        framework_name(finding),
        finding.metric.title,
        value(finding.metric, before),
        value(finding.metric, after),
        change(finding.ratio),
        f"{change(judged.low)} to {change(judged.high)}" if judged else "",
        _counts(finding),
        " and ".join(dict.fromkeys(str(count) for count in judged.contrast.runs)) if judged else "",
        verdict_words(finding),
        why(finding),
    )


def _counts(finding: Finding) -> str:
    if finding.judged is None:
        return ""
    floor, margin = finding.noise_floor, finding.judged.margin
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


def verdict_words(finding: Finding) -> str:
    """The verdict, and that it was expected."""
    words = finding.verdict.value.replace("_", " ")
    return f"{words} (expected)" if finding.expected else words


def why(finding: Finding) -> str:
    """What stands behind a verdict that is not the test's own."""
    if finding.expected is not None:
        return f"expected until {finding.expected.until}: {finding.expected.reason}"
    return finding.reason or ""


def sentence(finding: Finding) -> str:
    """One line about a finding, for a log or an annotation."""
    what = f"{framework_name(finding)}, {cell_name(finding.baseline.case)}: {finding.metric.title}"
    before, after = (value(finding.metric, figure) for figure in finding.figures)
    numbers = f"{before} to {after}" + (f" ({change(finding.ratio)})" if finding.ratio is not None else "")
    reason = f"; {why(finding)}" if why(finding) else ""
    return f"{what} {verdict_words(finding)}: {numbers}{reason}"


def summary(findings: Findings) -> str:
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


def headline(findings: Findings) -> str:
    """The answer first. Nothing found is not said to be nothing there where the runs cannot tell."""
    if findings.regressions:
        return plural(len(findings.regressions), "regression")
    unknown = findings.count(Verdict.INCONCLUSIVE, Verdict.NOT_COMPARABLE, Verdict.MISSING)
    if not any(row.verdict in _TOLD for row in findings.cases):
        return "no verdict: nothing could be told"
    if unknown:
        return "no regression found, but not every case could be told"
    return "no regression"


_TOLD = REGRESSIONS | IMPROVEMENTS | {Verdict.SAME}


def notable(findings: Findings) -> tuple[Finding, ...]:
    """What a reader who wants no details must see: changes, and what could not be compared."""
    quiet = {Verdict.SAME, Verdict.INCONCLUSIVE}
    return tuple(row for row in _by_weight(findings) if row.verdict not in quiet)


def shown(findings: Findings) -> tuple[Finding, ...]:
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


def _by_weight(findings: Findings) -> Iterator[Finding]:
    """Regressions first; what keeps a case from being compared is said once."""
    seen: set[tuple[int, str | None]] = set()
    for row in sorted(findings.rows, key=lambda row: (_WEIGHT.get(row.verdict, 4), not row.is_regression)):
        if row.verdict is Verdict.NOT_COMPARABLE:
            if (id(row.baseline), row.reason) in seen:
                continue
            seen.add((id(row.baseline), row.reason))
        yield row


def qualification_line(found: Qualification) -> str:
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
