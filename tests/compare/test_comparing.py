"""Two sides compared: what is matched with what, what is refused, what is said about the rest."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from run_folders import Y1, make_case, store_good_runs
from sides import FLAT, scaled, side, side_case, speed

from dlperf.compare.gate import suspects, version_comparisons
from dlperf.compare.matching import GUARDS, guarded, match
from dlperf.compare.output import as_json, exit_code, headline, markdown, summary, verdict_words
from dlperf.compare.sets import (
    LARGEST_BATCH,
    METRICS,
    PEAK_ANONYMOUS,
    SAMPLES_PER_SECOND,
    ResultSet,
    Verdict,
    result_set_of,
)
from dlperf.compare.verdicts import (
    OTHER_SESSION,
    ExpectedFailure,
    Settings,
    compare,
    of_several,
    read_expected,
)
from dlperf.errors import SourceErrors, UserError
from dlperf.plan.case import DataSet, Measure, Search, Source
from dlperf.results.noise_profile import Floor, NoiseProfile
from dlperf.results.query import load
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.compare.sets import CaseSamples

NEW = {"version": "1.9.2"}
SOURCE = Source(engine="mxnet", content_hash="0123456789ab", commit="863a7ea9")
FACES = DataSet(
    path="/data/faces", read="warm", forms=("recordio",), images=1000, classes=100, index_sha256="ab" * 32
)


def test_a_slower_version_is_found_and_is_exit_code_1() -> None:
    findings = compare(side(side_case()), side(side_case(scaled(0.95), **NEW)))
    row = speed(findings)
    assert row.verdict is Verdict.SLOWER
    assert row.ratio == pytest.approx(0.95)
    assert row.test is not None
    assert row.test.effect.blocked
    assert exit_code(findings, strict=False) == 1
    assert headline(findings) == "2 regressions"  # the step time's too


def test_equal_sides_are_the_same_and_say_so() -> None:
    findings = compare(side(side_case()), side(side_case(scaled(1.0001), **NEW)))
    assert {row.verdict for row in findings.rows} == {Verdict.SAME}
    assert exit_code(findings, strict=True) == 0
    assert headline(findings) == "no regression"


def test_a_faster_version_is_never_an_error() -> None:
    findings = compare(side(side_case()), side(side_case(scaled(1.2), **NEW)))
    assert speed(findings).verdict is Verdict.FASTER
    assert exit_code(findings, strict=True) == 0


def test_more_memory_is_reported_and_fails_only_for_whoever_asks_for_it() -> None:
    sides = side(side_case()), side(side_case(memory=6e8, **NEW))
    findings = compare(*sides)
    (row,) = [row for row in findings.rows if row.metric is PEAK_ANONYMOUS]
    assert (row.verdict, verdict_words(row)) == (Verdict.WORSE, "worse (reported only)")
    assert (exit_code(findings, strict=True), headline(findings)) == (0, "no regression")
    asked = compare(*sides, settings=Settings(named=("peak_anonymous_bytes",)))
    assert [row.verdict for row in asked.regressions] == [Verdict.WORSE]
    assert exit_code(asked, strict=False) == 1


OLDER: dict[str, Any] = {"peak": "peak_memory_bytes"}


def test_two_kinds_of_memory_are_never_compared() -> None:
    """Resident memory counts libraries: a candidate would look better that changed nothing."""
    sides = side(side_case(memory=6e8, **OLDER)), side(side_case(**NEW))
    findings = compare(*sides)
    assert {"samples_per_sec", "step_seconds_p95"} == {row.metric.name for row in findings.rows}
    assert exit_code(findings, strict=True) == 0
    why = "memory is not compared: the baseline has peak resident memory, the candidate peak anonymous memory"
    assert why in findings.notes


@pytest.mark.parametrize("name", ["peak_anonymous_bytes", "peak_memory_bytes"])
def test_whoever_asks_for_memory_is_told_that_the_kinds_differ(name: str) -> None:
    sides = side(side_case(**OLDER)), side(side_case(memory=6e8, **NEW))
    alone = Settings(metrics=(METRICS[name],), named=(name,))
    for settings in (Settings(named=(name,)), alone):
        asked = compare(*sides, settings=settings)
        (row,) = [row for row in asked.rows if row.metric is METRICS[name]]
        assert row.verdict is Verdict.NOT_COMPARABLE
        assert "the baseline has peak resident memory, the candidate peak anonymous" in (row.reason or "")
        assert not asked.regressions
        assert exit_code(asked, strict=False) == 3


def test_memory_of_older_runs_is_compared_with_its_like() -> None:
    sides = side(side_case(**OLDER)), side(side_case(memory=6e8, **OLDER, **NEW))
    (row,) = [row for row in compare(*sides).rows if row.metric.name == "peak_memory_bytes"]
    assert row.verdict is Verdict.WORSE


def drifted(rates: Sequence[float], **changes: Any) -> CaseSamples:
    """15 % slower, with 3 % between its runs."""
    return side_case([0.85 * rate * factor for rate, factor in zip(rates, SPREAD, strict=True)], **changes)


SPREAD = (0.97, 1.03, 1.0, 0.985, 1.015)


def test_a_drift_between_sessions_is_no_verdict_about_a_framework() -> None:
    findings = compare(side(side_case()), side(drifted(FLAT, session="friday", **NEW)))
    row = speed(findings)
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "measured in different sessions" in (row.reason or "")
    assert not row.can_be_settled
    assert suspects(findings) == ()
    assert (exit_code(findings, strict=False), exit_code(findings, strict=True)) == (4, 4)
    assert headline(findings).startswith("no verdict: the runs do not tell; run both sides in turns")


def test_runs_of_one_session_that_were_not_interleaved_have_a_verdict() -> None:
    one, other = side_case(), drifted(FLAT, **NEW)
    runs = [
        tuple(run.model_copy(update={"interleaved": False}) for run in case.runs) for case in (one, other)
    ]
    sides = [case.model_copy(update={"runs": made}) for case, made in zip((one, other), runs, strict=True)]
    row = speed(compare(side(sides[0]), side(sides[1])))
    assert row.test is not None
    assert not row.test.effect.blocked
    assert row.verdict is Verdict.SLOWER


def test_blocks_count_although_one_side_lacks_a_run_of_another_session() -> None:
    again = [run.model_copy(update={"session": "again"}) for run in side_case().runs[:1]]
    before = side_case()
    before = before.model_copy(update={"runs": (*before.runs, *again)})
    row = speed(compare(side(before), side(drifted(FLAT, **NEW))))
    assert row.test is not None
    assert row.test.effect.blocked
    assert row.verdict is Verdict.SLOWER


def test_runs_whose_session_nobody_knows_have_no_verdict() -> None:
    row = speed(compare(side(side_case(session=None)), side(drifted(FLAT, session=None, **NEW))))
    assert row.reason == OTHER_SESSION


def test_between_two_frameworks_the_report_and_the_comparison_name_the_same_winner() -> None:
    """In common blocks the test tells them apart; each alone, as a report shows them, their runs do not."""
    blocks = (0.8, 1.25, 1.0, 0.9, 1.1)
    rates = [[factor * rate for factor, rate in zip(blocks, FLAT, strict=True)] for _ in range(2)]
    other = side_case([1.03 * rate for rate in rates[1]], framework="pytorch")
    findings = compare(side(side_case(rates[0])), side(other), settings=Settings(compared=("framework",)))
    row = speed(findings)
    assert row.test is not None
    assert row.test.adjusted_p < 0.001
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "no winner named: pytorch 1.9.1 cannot be told apart from mxnet 1.9.1" in (row.reason or "")
    clear = side_case([2 * rate for rate in rates[1]], framework="pytorch")
    won = compare(side(side_case(rates[0])), side(clear), settings=Settings(compared=("framework",)))
    assert speed(won).verdict is Verdict.FASTER


def test_three_runs_give_no_verdict_and_no_false_all_clear() -> None:
    findings = compare(side(side_case()), side(side_case(scaled(0.5)[:3], **NEW)))
    assert speed(findings).verdict is Verdict.INCONCLUSIVE
    assert speed(findings).reason == "5 and 3 good runs; a verdict takes 4 on each side"
    assert headline(findings) == "no verdict: the runs do not tell"
    assert (exit_code(findings, strict=False), exit_code(findings, strict=True)) == (4, 4)


@pytest.mark.parametrize("rate", [0.0, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_named_and_never_compared(rate: float) -> None:
    broken = side_case(**NEW)
    values = {"samples_per_sec": rate}
    runs = (broken.runs[0].model_construct(repeat=1, session=None, values=values), *broken.runs[1:])
    broken = broken.model_copy(update={"runs": runs})
    row = speed(compare(side(side_case()), side(broken)))
    assert row.verdict is Verdict.NOT_COMPARABLE
    assert "is no figure" in (row.reason or "")


def test_a_case_that_fails_now_or_is_gone_is_missing_with_its_reason() -> None:
    failed = side_case((), more={"reason": "rank 0 ended with exit code 3", "failed_runs": 5}, **NEW)
    findings = compare(side(side_case(), side_case(num_classes=7)), side(failed))
    assert [row.verdict for row in findings.rows] == [Verdict.MISSING, Verdict.MISSING]
    assert [row.reason for row in findings.rows] == [
        "crash: rank 0 ended with exit code 3",
        "the candidate has no such case",
    ]
    assert exit_code(findings, strict=False) == 3
    assert findings.notes == ("failed runs are left out: 0 of the baseline, 5 of the candidate",)


def test_a_case_without_a_baseline_is_listed_and_no_verdict() -> None:
    findings = compare(side(side_case()), side(side_case(), side_case(num_classes=7)))
    assert [one.case.num_classes for one in findings.new] == [7]
    assert summary(findings) == "1 case compared by samples/s: 1 same, 1 without a baseline"


@pytest.mark.parametrize(
    ("guard", "candidate", "shown"),
    [
        ("threads", side_case(threads_per_device=4), "threads: 2 against 4"),
        ("seed", side_case(seed=3), "seed: 0 against 3"),
        ("options", side_case(options={"layout": "NHWC"}), "options: none against layout=NHWC"),
        (
            "iterations",
            side_case(measure=Measure(warmup_iterations=1, measured_iterations=9)),
            "iterations: 2 warm-up, 4 measured against 1 warm-up, 9 measured",
        ),
        (
            "experiment",
            side_case(workload=Y1.model_copy(update={"embedding_size": 64})),
            "experiment: embedding_size 128 against embedding_size 64",
        ),
        (
            "hardware",
            side_case(more={"hardware": "another CPU"}),
            "hardware: Example CPU 3000, 8 cores, 16 GiB against another CPU",
        ),
        ("loop", side_case(source=SOURCE), "loop: own against original 0123456789ab"),
    ],
)
def test_what_must_be_the_same_is_shown_where_it_differs(
    guard: str, candidate: CaseSamples, shown: str
) -> None:
    baseline = side(side_case())
    findings = compare(baseline, side(candidate))
    assert (speed(findings).verdict, speed(findings).reason) == (Verdict.NOT_COMPARABLE, shown)
    assert exit_code(findings, strict=False) == 3
    allowed = compare(baseline, side(candidate), settings=Settings(allow=(guard,)))
    assert speed(allowed).verdict is Verdict.SAME
    assert f"{guard} differs and was allowed to (--allow {guard})" in allowed.notes


def test_threads_that_differ_on_cuda_keep_nothing_from_being_compared() -> None:
    few, many = (side_case(device="cuda", threads_per_device=threads) for threads in (8, 16))
    findings = compare(side(few), side(many))
    assert (Verdict.SAME, ()) == (speed(findings).verdict, speed(findings).differences)
    # Where a side has both, each meets its own.
    pairs = match(side(few, many), side(many, few)).pairs
    assert [(8, 8), (16, 16)] == [
        (pair.baseline.case.threads_per_device, pair.candidate.case.threads_per_device) for pair in pairs
    ]


@pytest.mark.parametrize(
    "other",
    [
        None,
        FACES.model_copy(update={"read": "cold"}),
        FACES.model_copy(update={"index_sha256": "cd" * 32}),
    ],
)
def test_cases_on_other_data_are_never_a_pair_whatever_is_allowed(other: DataSet | None) -> None:
    findings = compare(
        side(side_case(data=FACES)), side(side_case(data=other)), settings=Settings(allow=GUARDS)
    )
    assert Verdict.MISSING is speed(findings).verdict
    assert 1 == len(findings.new)


def test_data_elsewhere_and_another_commit_with_the_same_files_are_the_same_case() -> None:
    moved = FACES.model_copy(update={"path": "/mnt/faces"})
    other = SOURCE.model_copy(update={"commit": "a9beb609"})
    findings = compare(side(side_case(data=FACES, source=SOURCE)), side(side_case(data=moved, source=other)))
    assert (Verdict.SAME, ()) == (speed(findings).verdict, speed(findings).differences)


def test_another_state_of_an_original_program_is_not_compared() -> None:
    changed = SOURCE.model_copy(update={"content_hash": "ba9876543210"})
    row = speed(compare(side(side_case(source=SOURCE)), side(side_case(source=changed))))
    assert (Verdict.NOT_COMPARABLE, "loop: original 0123456789ab against original ba9876543210") == (
        row.verdict,
        row.reason,
    )


def test_an_original_program_is_compared_with_the_own_loop_on_request_alone() -> None:
    own, theirs = side_case(), side_case(framework="insightface_mxnet", source=SOURCE)
    barred, allowed = (
        speed(compare(side(theirs), side(own), settings=Settings(compared=("framework",), allow=allow)))
        for allow in ((), ("loop",))
    )
    assert (Verdict.NOT_COMPARABLE, None) == (barred.verdict, barred.test)
    assert allowed.test is not None


def test_drivers_and_alignment_differ_only_where_both_are_known() -> None:
    one = side_case(more={"driver": "535", "alignment": "aligned"})
    unknown, other = side_case(), side_case(more={"driver": "550", "alignment": "not aligned"})
    assert speed(compare(side(one), side(unknown))).verdict is Verdict.SAME
    row = speed(compare(side(one), side(other)))
    assert [difference.guard for difference in row.differences] == ["driver", "alignment"]


def test_a_reboot_loses_no_baseline() -> None:
    before = side_case(more={"hardware": "Example CPU @ 2199.9MHz, 8 cores, 16 GiB"})
    after = side_case(more={"hardware": "Example CPU @ 2200.2MHz, 8 cores, 15 GiB"})
    assert speed(compare(side(before), side(after))).verdict is Verdict.SAME


def test_unknown_hardware_is_never_the_same_hardware() -> None:
    unknown = side_case(more={"hardware": "unknown hardware"})
    assert speed(compare(side(unknown), side(unknown))).verdict is Verdict.NOT_COMPARABLE


def test_versions_of_one_folder_each_find_their_own() -> None:
    both = [side_case(version="1.9.0"), side_case(version="1.9.1")]
    pairs = match(side(both), side(reversed(both))).pairs
    assert [(pair.baseline.case.version, pair.candidate.case.version) for pair in pairs] == [
        ("1.9.0", "1.9.0"),
        ("1.9.1", "1.9.1"),
    ]


def test_a_case_with_two_counterparts_is_matched_with_none() -> None:
    matched = match(side(side_case()), side(side_case(version="1"), side_case(version="2")))
    assert matched.pairs == ()
    assert (len(matched.only_baseline), len(matched.only_candidate)) == (1, 2)


def test_what_the_selectors_tell_apart_is_left_out_of_the_match() -> None:
    fp16 = side_case(scaled(1.5), precision="fp16")
    assert match(side(side_case()), side(fp16)).pairs == ()
    findings = compare(side(side_case()), side(fp16), settings=Settings(compared=("precision",)))
    assert speed(findings).verdict is Verdict.FASTER


def test_runs_of_other_sessions_are_no_blocks_and_the_reader_is_told() -> None:
    findings = compare(side(side_case()), side(side_case(session="another day")))
    assert speed(findings).test is not None
    assert not speed(findings).test.effect.blocked
    assert any("not run in common blocks" in note for note in findings.notes)


def test_cells_of_one_sweep_are_run_one_after_the_other_and_share_no_blocks() -> None:
    fp16 = side_case(scaled(1.5), precision="fp16")
    findings = compare(side(side_case()), side(fp16), settings=Settings(compared=("precision",)))
    assert speed(findings).test is not None
    assert not speed(findings).test.effect.blocked
    assert any("not run in common blocks" in note for note in findings.notes)


class Noisy(NoiseProfile):
    def floor(self, *_: object, **__: object) -> Floor:
        return Floor(0.05)


def test_a_margin_and_a_noise_floor_decide_what_counts() -> None:
    baseline, slower = side(side_case()), side(side_case(scaled(0.97), **NEW))
    wide = Settings(margins={"samples_per_sec": 0.05})
    noisy = Settings(noise_profile=Noisy(dlperf_version="", sessions=()))
    assert speed(compare(baseline, slower)).verdict is Verdict.SLOWER
    assert speed(compare(baseline, slower, settings=wide)).verdict is Verdict.SAME
    drowned = speed(compare(baseline, slower, settings=noisy))
    assert drowned.verdict is Verdict.INCONCLUSIVE  # it is no proof that nothing changed by 1 %
    assert drowned.reason == "equal sides differ by up to 5.00 % here (A/A); more runs a side make that less"


def test_limits_are_compared_where_a_size_ran_out_of_memory() -> None:
    out = {"out_of_memory": True, "status": Status.OOM}
    baseline = side(side_case(batch_size_per_device=8), side_case(batch_size_per_device=16))
    candidate = side(side_case(batch_size_per_device=8), side_case((), batch_size_per_device=16, more=out))
    rows = [row for row in compare(baseline, candidate).rows if row.metric is LARGEST_BATCH]
    assert [(row.verdict, row.figures) for row in rows] == [(Verdict.WORSE, (16.0, 8.0))]
    assert [row for row in compare(baseline, baseline).rows if row.metric is LARGEST_BATCH] == []


def test_a_size_that_crashed_is_no_limit() -> None:
    out = {"out_of_memory": True, "status": Status.OOM}
    baseline = side(
        side_case(batch_size_per_device=8),
        side_case(batch_size_per_device=16),
        side_case((), batch_size_per_device=32, more=out),
    )
    candidate = side(
        side_case(batch_size_per_device=8),
        side_case((), batch_size_per_device=16),
        side_case((), batch_size_per_device=32, more=out),
    )
    assert [row for row in compare(baseline, candidate).rows if row.metric is LARGEST_BATCH] == []


def test_limits_that_were_found_by_search_are_compared_and_their_speeds_are_not() -> None:
    search = Search(axis="batch_size_per_device", lower=1, granularity=2, upper=1000, iterations=10)
    most = {"search": search, "memory_bytes": 2 << 30}
    baseline = side(side_case(batch_size_per_device=115, **most))
    for found, verdict in ((119, Verdict.BETTER), (111, Verdict.WORSE), (115, Verdict.SAME)):
        findings = compare(baseline, side(side_case(batch_size_per_device=found, **most, **NEW)))
        (row,) = [row for row in findings.rows if row.metric is LARGEST_BATCH]
        assert ((115.0, float(found)), verdict) == (row.figures, row.verdict)
        if found != 115:
            assert Verdict.NOT_COMPARABLE is speed(findings).verdict
            expected = f"limit: batch_size_per_device 115 against batch_size_per_device {found}"
            assert expected == speed(findings).reason


@pytest.mark.parametrize(
    ("guard", "changes", "more"),
    [("memory", {"memory_bytes": 1 << 30}, {}), ("hardware", {}, {"hardware": "another GPU"})],
)
def test_limits_of_other_budgets_and_machines_are_not_comparable(
    guard: str, changes: dict[str, int], more: dict[str, str]
) -> None:
    """A machine with half the memory is no regression of a framework."""
    search = Search(axis="batch_size_per_device", lower=1, granularity=1, upper=1000, iterations=10)
    most = {"search": search, "memory_bytes": 2 << 30}
    out = {"out_of_memory": True, "status": Status.OOM}
    sizes = (8, 16)
    baseline = side(
        side_case(batch_size_per_device=115, **most),
        [side_case(num_classes=7, batch_size_per_device=size) for size in sizes],
    )
    candidate = side(
        side_case(batch_size_per_device=60, **most | changes, more=more),
        side_case(num_classes=7, batch_size_per_device=8, more=more),
        side_case((), num_classes=7, batch_size_per_device=16, more=out | more),
    )
    by_search, of_sizes = (row for row in compare(baseline, candidate).rows if row.metric is LARGEST_BATCH)
    assert by_search.verdict is Verdict.NOT_COMPARABLE
    assert guard in (by_search.reason or "")
    assert of_sizes.verdict is (Verdict.NOT_COMPARABLE if more else Verdict.WORSE)
    allowed = compare(baseline, candidate, settings=Settings(allow=(guard,))).rows
    assert {row.verdict for row in allowed if row.metric is LARGEST_BATCH} == {Verdict.WORSE}


EXPECTED = """\
expected:
  - case: framework==mxnet and batch_size_per_device==8
    metric: samples_per_sec
    reason: slower kernel, fix is on its way
    until: 2026-06-30
"""


def expected(tmp_path: Path, text: str = EXPECTED) -> tuple[ExpectedFailure, ...]:
    (tmp_path / "expected.yaml").write_text(text)
    return read_expected(tmp_path / "expected.yaml")


def test_an_expected_regression_is_shown_and_is_no_alarm_until_its_day(tmp_path: Path) -> None:
    known = expected(tmp_path)
    sides = side(side_case()), side(side_case(scaled(0.95), **NEW))
    settings = Settings(metrics=(SAMPLES_PER_SECOND,), expected=known, today=date(2026, 6, 30))
    findings = compare(*sides, settings=settings)
    assert (speed(findings).verdict, exit_code(findings, strict=True)) == (Verdict.SLOWER, 0)
    late = Settings(metrics=(SAMPLES_PER_SECOND,), expected=known, today=date(2026, 7, 1))
    findings = compare(*sides, settings=late)
    assert exit_code(findings, strict=False) == 1
    assert "is over since 2026-06-30" in findings.notes[0]


def test_an_expectation_that_matches_nothing_is_said(tmp_path: Path) -> None:
    settings = Settings(expected=expected(tmp_path), today=date(2026, 1, 1))
    (note,) = compare(side(side_case()), side(side_case()), settings=settings).notes
    assert note.startswith("expected failure matches nothing: framework==mxnet")


def test_an_expectation_that_one_of_several_comparisons_needs_is_not_idle(tmp_path: Path) -> None:
    settings = Settings(metrics=(SAMPLES_PER_SECOND,), expected=expected(tmp_path), today=date(2026, 1, 1))
    slower = side(side_case(scaled(0.95), **NEW))
    notes = [
        compare(side(side_case()), other, settings=settings).notes for other in (slower, side(side_case()))
    ]
    assert [0, 1] == [len(each) for each in notes]
    assert of_several(notes) == ()
    assert of_several([notes[1], notes[1]]) == notes[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("    metric: samples", "3:13: expected[0].metric: unknown metric 'samples'"),
        ("    metric: samples_per_sec\n    until: soon", "no day; write it as 2026-12-31"),
        ("    metric: samples_per_sec\n    why: x", "unknown key 'why'"),
    ],
)
def test_a_wrong_file_of_expected_failures_is_told_with_its_line(
    tmp_path: Path, line: str, message: str
) -> None:
    text = EXPECTED.replace("    metric: samples_per_sec", line)
    if "until: soon" in line:
        text = text.replace("    until: 2026-06-30\n", "")
    with pytest.raises(SourceErrors) as raised:
        expected(tmp_path, text)
    assert message in str(raised.value)
    assert "expected.yaml:" in str(raised.value)


def test_pooled_sessions_keep_their_blocks() -> None:
    one, more = side_case(session="a"), side_case(session="b")
    pooled = side(one, more).pooled()
    assert len(pooled.cases) == 1
    assert len(pooled.cases[0].values(SAMPLES_PER_SECOND)) == 2 * len(FLAT)


def test_a_side_is_the_same_after_a_round_through_its_file() -> None:
    made = side(side_case(), side_case((), num_classes=7))
    assert ResultSet.model_validate_json(made.model_dump_json(exclude_none=True)) == made


def test_a_baseline_with_the_machine_readings_of_earlier_versions_can_still_be_read() -> None:
    made = side(side_case())
    content = made.model_dump(mode="json", exclude_none=True)
    content["cases"][0]["runs"][0] |= {"before": {"matmul_flops_per_second": 1e12}, "after": None}
    assert ResultSet.model_validate_json(json.dumps(content)) == made


def test_the_command_offers_every_guard() -> None:
    assert GUARDS == tuple(guarded(side_case()))


def versions(*names: str) -> list[CaseSamples]:
    """A case for each `framework version`."""
    pairs = [name.split() for name in names]
    return [side_case(framework=framework, version=version) for framework, version in pairs]


def test_a_sweep_of_versions_is_compared_with_the_first_of_each_framework() -> None:
    cases = versions(
        "mxnet 1.9.1", "mxnet 1.9.0", "oneflow 0.8.0", "oneflow 0.9.0", "oneflow 1.0", "pytorch 2"
    )
    first, second = version_comparisons([one.case for one in cases], sweep="s")
    assert (first.baseline, first.candidate) == (
        (("mxnet", "1.9.1"), ("oneflow", "0.8.0")),
        (("mxnet", "1.9.0"), ("oneflow", "0.9.0")),
    )
    assert (second.baseline, second.candidate) == ((("oneflow", "0.8.0"),), (("oneflow", "1.0"),))
    chosen, *_ = version_comparisons([one.case for one in cases], sweep="s", baselines=["mxnet==1.9.0"])
    assert chosen.candidate[0] == ("mxnet", "1.9.1")


def test_a_part_of_the_versions_keeps_its_sides() -> None:
    """Suspects run again are a part of the sweep; nothing else decides what they are compared with."""
    cases = versions("mxnet 1.9.1", "mxnet 1.9.0", "oneflow 0.8.0", "oneflow 0.9.0")
    (version_pairs,) = version_comparisons([one.case for one in cases], sweep="s")
    baseline, candidate = version_pairs.sides(side(versions("mxnet 1.9.0", "mxnet 1.9.1")))
    assert [one.case.version for one in baseline.cases] == ["1.9.1"]
    assert [one.case.version for one in candidate.cases] == ["1.9.0"]


def test_one_version_alone_or_an_unknown_one_is_told() -> None:
    cases = [one.case for one in versions("mxnet 1.9.1", "oneflow 0.8.0")]
    with pytest.raises(UserError, match="no framework is there in two versions"):
        version_comparisons(cases, sweep="s")
    with pytest.raises(UserError, match="unknown version 'mxnet==1'"):
        version_comparisons(cases, sweep="s", baselines=["mxnet==1"])


def test_versions_on_different_pythons_are_compared_and_it_is_said() -> None:
    before, after = side_case(more={"python": "3.9.20"}), side_case(more={"python": "3.10.15"}, **NEW)
    findings = compare(side(before), side(after))
    assert speed(findings).verdict is Verdict.SAME
    note = (
        "different Pythons: mxnet 1.9.1 on 3.9.20, mxnet 1.9.2 on 3.10.15; "
        "what they change counts as the framework's change"
    )
    assert findings.notes == (note,)
    for document in (markdown(findings), as_json(findings, exit_code=0)):
        assert "different Pythons" in document
    assert compare(side(before), side(side_case(**NEW))).notes == ()  # a Python that nobody knows


@pytest.mark.parametrize(("known", "barred"), [("tf32", True), ("ieee", False), (None, False)])
def test_another_float32_on_a_gpu_is_not_compared(known: str | None, *, barred: bool) -> None:
    """Between two frameworks as well, whose options say nothing; what is not known is no difference."""
    ieee = side_case(device="cuda", more={"fp32_arithmetic": "ieee"})
    other = side_case(framework="oneflow", device="cuda", more={"fp32_arithmetic": known})
    (pair,) = match(side(ieee), side(other), compared=("framework",)).pairs
    assert ("arithmetic: ieee against tf32" if barred else None) == pair.barred(())
    assert pair.barred(("arithmetic",)) is None


def test_a_side_of_gpu_results_knows_its_float32_and_one_of_cpu_results_is_written_as_ever(
    tmp_path: Path,
) -> None:
    facts = {"fp32_arithmetic": {"product": "tf32", "convolution": "tf32"}}
    store_good_runs(tmp_path / "y1", make_case(device="cuda"), [8.0], facts=facts)
    store_good_runs(tmp_path / "y1", make_case(), [8.0], facts=facts)
    cpu, gpu = sorted(
        result_set_of(load([tmp_path], strict=True), label="y1").cases, key=lambda one: one.case.device
    )
    assert "tf32" == gpu.fp32_arithmetic
    assert "fp32_arithmetic" not in cpu.model_dump()
