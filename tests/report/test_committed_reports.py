"""Reports whose runs are in the repository say what the logs of these give; README says what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlperf.report.verify import verify
from dlperf.results.cases import case_figures, standings
from dlperf.results.store import read_results

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "runs"), [("quickstart", 20), ("parallel_cpu", 54)])
def test_a_committed_report_is_what_its_logs_give(name: str, runs: int) -> None:
    found = verify(ROOT / "reports" / name / "report.md")
    assert () == found.differences
    assert runs == found.runs


def test_the_table_in_the_readme_is_that_of_the_report() -> None:
    """But for the links to the evidence."""
    report = (ROOT / "reports" / "quickstart" / "report.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (claim,) = re.findall(r"^\*\*.* is the fastest.*$", report, re.MULTILINE)
    assert claim in readme
    shown = re.sub(r"\[([^\]]+)\]\(#e\d+\)", r"\1", report)
    assert _rows(shown)[0] == _rows(readme)[0]


def test_the_lead_in_the_summary_of_a_run_is_that_of_the_report() -> None:
    """Of the medians, 1.38; that of the geometric means is 1.37 here."""
    ((_, found),) = standings(case_figures(read_results(ROOT / "evidence" / "quickstart")))
    report = (ROOT / "reports" / "quickstart" / "report.md").read_text(encoding="utf-8")
    (claimed,) = re.findall(r" is the fastest, ([\d.]+) times the next", report)
    said = f"pytorch 2.13.0 is the fastest, {claimed} times mxnet 1.9.1"
    assert said == found.in_words(str)
    assert said in (ROOT / "README.md").read_text(encoding="utf-8")


def _rows(text: str) -> list[list[str]]:
    """The cells of table rows that begin with a number of nodes."""
    return [
        [cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| +\d+ \|.*$", text, re.MULTILINE)
    ]
