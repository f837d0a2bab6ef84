"""What a person reads at the end of an alignment: a line where all is well, else a line for each fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dlperf.align.certificate import Certificate, Contender, Figures, Pair, Tolerance, Worst
from dlperf.align.table import findings
from dlperf.align.verdict import verdict

if TYPE_CHECKING:
    from dlperf.plan.case import Case

MXNET, PYTORCH = (
    Contender(name="mxnet==1.9.1", version="1.9.1"),
    Contender(name="pytorch==2.13.0", version="2"),
)
MARGIN = "the margin head: the embeddings agree and the first loss does not; mxnet computed 3"


def pair(first: str, second: str, *, culprit: str | None = None, error: str | None = None) -> Pair:
    none = Worst(name="conv1.conv.weight", difference=0.0)
    figures = Figures(
        embeddings=0.0,
        losses=(1e-7, 3e-6),
        gradient_norm=none,
        first_step=none,
        parameters=none,
        statistics=none,
    )
    return Pair(
        first=first,
        second=second,
        passed=culprit is None and error is None,
        figures=None if error else figures,
        culprit=culprit,
        error=error,
    )


def certificate(case: Case, pairs: list[Pair], reference: list[Pair], *contenders: Contender) -> Certificate:
    who = contenders or (MXNET, PYTORCH)
    return Certificate(
        dlperf_version="0",
        created_at="2026-01-01T00:00:00+00:00",
        experiment="y1",
        experiment_hash="0",
        case=case,
        steps=2,
        tolerance=Tolerance(),
        contenders=who,
        pairs=tuple(pairs),
        reference=tuple(reference),
        verdict=verdict(who, pairs, reference),
        passed=all(one.passed for one in (*pairs, *reference)),
    )


def test_all_is_well_in_one_line(case: Case) -> None:
    found = certificate(case, [pair("mxnet==1.9.1", "pytorch==2.13.0")], [])

    assert "aligned: 2 contenders, max loss difference 3e-06 over 2 steps\n" == findings(found)


def test_a_culprit_of_two_clauses_stays_one_line(case: Case) -> None:
    found = certificate(case, [pair("mxnet==1.9.1", "pytorch==2.13.0", culprit=MARGIN)], [])

    assert f"not aligned: mxnet==1.9.1 and pytorch==2.13.0 differ: {MARGIN}\n" == findings(found)


def test_whom_the_reference_accuses_is_named_alone(case: Case) -> None:
    reference = [
        pair("mxnet==1.9.1", "reference", culprit=MARGIN),
        pair("pytorch==2.13.0", "reference"),
    ]
    found = certificate(case, [pair("mxnet==1.9.1", "pytorch==2.13.0", culprit=MARGIN)], reference)

    assert f"mxnet==1.9.1 differs from the reference: {MARGIN}" == found.verdict


def test_a_reference_that_failed_is_said_where_the_pairs_agree(case: Case) -> None:
    """It was asked for, so the alignment does not pass; the verdict must not sound as if it did."""
    error = "reference: its program was ended: time_limit"
    reference = [pair(name, "reference", error=error) for name in ("mxnet==1.9.1", "pytorch==2.13.0")]
    found = certificate(case, [pair("mxnet==1.9.1", "pytorch==2.13.0")], reference)

    assert not found.passed
    assert "the reference has nothing to compare: its program was ended: time_limit" == found.verdict


@pytest.mark.parametrize("culprit", [None, MARGIN])
def test_who_has_nothing_to_compare_is_named_once_beside_what_differs(
    case: Case, culprit: str | None
) -> None:
    absent = Contender(name="oneflow==0.9.0", version="", error="no Python")
    error = "oneflow==0.9.0: no Python"
    pairs = [
        pair("mxnet==1.9.1", "pytorch==2.13.0", culprit=culprit),
        pair("mxnet==1.9.1", "oneflow==0.9.0", error=error),
    ]
    found = certificate(
        case, pairs, [pair("oneflow==0.9.0", "reference", error=error)], MXNET, PYTORCH, absent
    )

    lines = findings(found).splitlines()

    assert "not aligned: oneflow==0.9.0 has nothing to compare: no Python" == lines[-1]
    assert (1 if culprit is None else 2) == len(lines)
