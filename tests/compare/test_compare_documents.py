"""What people and CI read: golden texts, well-formed files, and nothing where nothing changed."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt
from sides import FLAT, scaled, side, side_case

from dlperf.cli.compare import findings_lines
from dlperf.compare import output as documents
from dlperf.compare.sets import PEAK_ANONYMOUS, SAMPLES_PER_SECOND
from dlperf.compare.verdicts import Comparison, Settings, compare

ONE_METRIC = Settings(metrics=(SAMPLES_PER_SECOND,))


@pytest.fixture
def findings() -> Comparison:
    """A slower case, an equal one, one that failed, one on another machine, one that is noisy."""
    noisy = (90.0, 110.0, 95.0, 105.0, 100.0)
    classes = (100, 200, 300, 400, 500)
    before = side((side_case(num_classes=count) for count in classes), label="1.9.1")
    after = side(
        side_case(scaled(0.95, FLAT[::-1]), num_classes=100, version="1.9.2"),
        side_case(num_classes=200, version="1.9.2"),
        side_case((), num_classes=300, version="1.9.2", more={"reason": "<b>exit</b> code | 3"}),
        side_case(num_classes=400, version="1.9.2", more={"hardware": "another"}),
        side_case(noisy, num_classes=500, version="1.9.2"),
        label="1.9.2",
    )
    return compare(before, after, settings=ONE_METRIC)


@pytest.fixture
def unchanged() -> Comparison:
    return compare(side(side_case()), side(side_case(version="1.9.2")), settings=ONE_METRIC)


def test_the_terminals_text(findings: Comparison) -> None:
    lines = [
        " ".join(line.split()) for line in "\n".join(findings_lines(findings, everything=False)).splitlines()
    ]
    assert lines == GOLDEN.splitlines()


GOLDEN = """\
1.9.2 against 1.9.1

case framework metric baseline candidate change 95 % interval margin runs verdict why
y1 data 1n1g b8 c100 fp32 mxnet 1.9.1 -> 1.9.2 samples/s 100.00 95.00 -5.00 % -5.06 % to -4.94 % \
1.00 % 5 slower
y1 data 1n1g b8 c300 fp32 mxnet 1.9.1 -> 1.9.2 samples/s 100.00 none missing crash: <b>exit</b> code | 3
y1 data 1n1g b8 c400 fp32 mxnet 1.9.1 -> 1.9.2 samples/s 100.00 100.00 +0.00 % not comparable \
hardware: Example CPU 3000, 8 cores, 16 GiB against another
y1 data 1n1g b8 c200 fp32 mxnet 1.9.1 -> 1.9.2 samples/s 100.00 100.00 +0.00 % +0.00 % to +0.00 % \
1.00 % 5 same
y1 data 1n1g b8 c500 fp32 mxnet 1.9.1 -> 1.9.2 samples/s 100.00 100.00 -0.25 % -9.20 % to +9.58 % \
1.00 % 5 inconclusive too noisy to settle by more runs

5 cases compared by samples/s: 1 slower, 1 same, 1 inconclusive, 1 not comparable, 1 missing
1 regression
"""


def test_markdown_answers_first_and_is_a_table_that_logs_cannot_break(findings: Comparison) -> None:
    text = documents.markdown(findings)
    assert text.startswith("**dlperf: 1 regression** (1.9.2 against 1.9.1)\n")
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    assert html.count("<tr>") == (1 + 3) + (1 + 5)
    assert "<b>exit" not in html


def test_a_comment_has_at_most_20_lines(findings: Comparison) -> None:
    many = Comparison(baseline="a", candidate="b", rows=findings.rows * 40)
    for each in (findings, many):
        assert 1 < len(documents.comment(each).splitlines()) <= 20
    assert "more" in documents.comment(many)


def test_nothing_changed_is_no_comment_and_no_annotation(unchanged: Comparison) -> None:
    assert documents.comment(unchanged) == ""
    assert documents.workflow_commands(unchanged) == ""


def test_json_holds_every_finding_with_its_numbers(findings: Comparison) -> None:
    content = json.loads(documents.as_json(findings, exit_code=1))
    assert content["exit_code"] == 1
    assert content["counts"] | {"better": 0} == content["counts"]
    by_verdict = {row["verdict"]: row for row in content["findings"]}
    assert by_verdict["slower"]["ratio"] == pytest.approx(0.95)
    assert by_verdict["slower"]["better"] == "higher"
    assert by_verdict["missing"]["candidate"] is None
    assert by_verdict["not_comparable"]["differences"][0]["what"] == "hardware"


@pytest.fixture
def noted() -> Comparison:
    """Nothing changed, on another Python and on another day."""
    before = side_case(more={"python": "3.9.20"})
    after = side_case(more={"python": "3.10.15"}, version="1.9.2", session="friday")
    return compare(side(before), side(after), settings=ONE_METRIC)


def test_every_form_carries_the_notes(noted: Comparison) -> None:
    """They say what the verdicts rest on, also where there is nothing else to say."""
    assert len(noted.notes) == 3
    printed = ET.fromstring(documents.junit(noted)).findtext("system-out")  # noqa: S314 - made by ourselves
    assert printed == "\n".join(["no regression", *(f"note: {note}" for note in noted.notes)])
    (line,) = documents.workflow_commands(noted).splitlines()
    assert line == "::notice title=dlperf notes::" + "%0A".join(noted.notes)
    for text in (documents.markdown(noted), documents.as_json(noted, exit_code=0)):
        assert "different Pythons" in text


def test_one_metric_alone_answers_for_itself() -> None:
    memory = Settings(metrics=(PEAK_ANONYMOUS,), named=("peak_anonymous_bytes",))
    same = compare(side(side_case()), side(side_case(version="1.9.2")), settings=memory)
    text = "\n".join(findings_lines(same, everything=False))
    assert text.endswith("\n1 case compared by peak anonymous memory: 1 same\nno regression")
    assert "peak anonymous memory" in text.splitlines()[3]
    worse = compare(side(side_case()), side(side_case(memory=6e8, version="1.9.2")), settings=memory)
    assert list(findings_lines(worse, everything=False))[-1] == "1 regression"


def test_a_metric_that_is_no_figure_is_said_beside_a_regression_of_another() -> None:
    before, after = side_case(), side_case(memory=6e8, version="1.9.2")
    runs = (after.runs[0].model_copy(update={"values": {**after.runs[0].values, "samples_per_sec": 0.0}}),)
    after = after.model_copy(update={"runs": (*runs, *after.runs[1:])})
    text = "\n".join(findings_lines(compare(side(before), side(after)), everything=False))
    assert "worse" in text
    assert "samples/s of 0 is no figure" in text


def test_junit_fails_regressions_and_counts_what_was_not_told(findings: Comparison) -> None:
    suite = ET.fromstring(documents.junit(findings))  # noqa: S314 - made by ourselves a line above
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "2", "skipped": "1"}
    assert [test.find("failure").get("type") for test in suite if test.find("failure") is not None] == [
        "slower"
    ]


def test_tests_of_one_cell_with_other_options_have_names_of_their_own() -> None:
    cases = [side_case(options=options) for options in ({}, {"layout": "NHWC"})]
    suite = ET.fromstring(documents.junit(compare(side(cases), side(cases))))  # noqa: S314 - made by ourselves
    names = [test.get("name") for test in suite.iter("testcase")]
    assert len(set(names)) == len(names) == 6


def test_annotations_are_one_line_each_with_percent_signs_escaped(findings: Comparison) -> None:
    lines = documents.workflow_commands(findings).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::warning", "::notice"]
    assert lines[0] == (
        "::error title=dlperf slower::mxnet 1.9.1 -> 1.9.2, y1 data 1n1g b8 c100 fp32: samples/s slower: "
        "100.00 to 95.00 (-5.00 %25)"
    )
