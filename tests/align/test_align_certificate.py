"""Who is named, and who is not: votes by framework, and nobody without a majority; old files still load."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dlperf.align.certificate import (
    STAGES,
    Certificate,
    Figures,
    Pair,
    ParticipantResult,
    Stage,
    StageResult,
    Tolerance,
    Worst,
    conclusion,
    load_certificate,
    stage_table,
    verdict,
)
from dlperf.cli.terminal import rendered
from dlperf.errors import UserError
from dlperf.plan.case import Case

MXNET, ONEFLOW, PYTORCH = "mxnet==1.9.1", "oneflow==0.9.0", "pytorch==2.13.0"
EVIDENCE = Path(__file__).parents[2] / "evidence"

# The groups that agree, by stage; a stage that is not named has one group.
Groups = dict[Stage, Sequence[Sequence[str]]]


def stage_results(first: str, second: str, groups: Groups) -> tuple[StageResult, ...]:
    results = []
    for stage in STAGES:
        apart = not any(first in group and second in group for group in groups.get(stage, [[first, second]]))
        differs = {"first": "an.array", "beyond": 1, "arrays": 9, "kinds": ("PReLU slopes",)} if apart else {}
        results.append(StageResult(stage=stage, difference=0.5 if apart else 1e-6, **differs))
    return tuple(results)


def pair(first: str, second: str, groups: Groups, hint: str | None = None) -> Pair:
    none = Worst(name="conv1.conv.weight", difference=0.0)
    figures = Figures(
        embeddings=0.0,
        losses=(1e-7, 3e-6),
        gradient_norm=none,
        first_step=none,
        parameters=none,
        statistics=none,
    )
    stages = stage_results(first, second, groups)
    passed = all(stage.first is None for stage in stages)
    return Pair(
        first=first,
        second=second,
        passed=passed,
        figures=figures,
        stages=stages,
        hint=None if passed else hint,
    )


@pytest.fixture
def certificate(case: Case) -> Callable[..., Certificate]:
    def make(
        names: Sequence[str],
        groups: Groups,
        *,
        reference: bool = False,
        absent: dict[str, str] | None = None,
        defined: dict[str, float] | None = None,
        hint: str | None = None,
    ) -> Certificate:
        present = [
            ParticipantResult(
                name=name, version="", losses=(2.0, 2.0), defined_loss=(defined or {}).get(name)
            )
            for name in names
        ]
        missing = [
            ParticipantResult(name=name, version="", error=why) for name, why in (absent or {}).items()
        ]
        pairs = [
            pair(one, other, groups, hint) for i, one in enumerate(names) for other in names[i + 1 :]
        ] + [
            Pair(first=name, second=one.name, passed=False, error=f"{one.name}: {one.error}")
            for name in names
            for one in missing
        ]
        against = [pair(name, "reference", groups, hint) for name in names] if reference else []
        draft = Certificate(
            dlperf_version="0",
            created_at="2026-01-01T00:00:00+00:00",
            experiment="y1",
            experiment_hash="0",
            case=case,
            steps=2,
            tolerance=Tolerance(),
            participants=(*present, *missing),
            pairs=tuple(pairs),
            reference=tuple(against),
            verdict="",
            passed=all(one.passed for one in (*pairs, *against)),
        )
        return draft.model_copy(update={"verdict": verdict(draft)})

    return make


def test_all_is_well_in_one_line(certificate: Callable[..., Certificate]) -> None:
    found = certificate([MXNET, PYTORCH], {})

    assert "aligned: 2 participants, max loss difference 3e-06 over 2 steps\n" == conclusion(found)


WHERE = {
    "embeddings": "the forward pass differs, first in an.array",
    "loss": "the embeddings agree, the first loss differs",
    "gradients": "the loss agrees, 1 of 9 gradients differ (PReLU slopes), backwards first an.array",
    "step": "the gradients agree, 1 of 9 parameters differ after the first step (PReLU slopes), "
    "first an.array",
    "statistics": "the parameters agree, 1 of 9 BatchNorm statistics differ after the first step, "
    "first an.array",
    "later steps": "the first step agrees, later steps differ, first in an.array",
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_third_of_three_is_named_at_the_first_stage_that_differs(
    certificate: Callable[..., Certificate], stage: Stage
) -> None:
    groups = {one: [[MXNET, PYTORCH], [ONEFLOW]] for one in STAGES[STAGES.index(stage) :]}

    found = certificate([MXNET, ONEFLOW, PYTORCH], groups)

    assert f"{ONEFLOW} stands alone while {MXNET} and {PYTORCH} agree: {WHERE[stage]}" == found.verdict


def test_the_reference_does_not_outvote_two_frameworks(certificate: Callable[..., Certificate]) -> None:
    groups = {"embeddings": [[MXNET, ONEFLOW], [PYTORCH, "reference"]]}

    found = certificate([MXNET, ONEFLOW, PYTORCH], groups, reference=True)

    assert (
        f"{PYTORCH} stands alone (with the reference, which runs the same program) while {MXNET} and "
        f"{ONEFLOW} agree: {WHERE['embeddings']}"
    ) == found.verdict


def test_two_frameworks_and_the_reference_of_one_of_them_have_no_majority(
    certificate: Callable[..., Certificate],
) -> None:
    found = certificate([MXNET, PYTORCH], {"step": [[MXNET], [PYTORCH, "reference"]]}, reference=True)

    assert (
        f"{PYTORCH} and reference | {MXNET} differ, and there is no majority (the reference runs pytorch's "
        f"program and settles nothing): {WHERE['step']}"
    ) == found.verdict


def test_a_framework_that_differs_from_its_own_reference_and_from_another_stands_alone(
    certificate: Callable[..., Certificate],
) -> None:
    found = certificate([MXNET, PYTORCH], {"step": [[MXNET, "reference"], [PYTORCH]]}, reference=True)

    assert f"{PYTORCH} stands alone while {MXNET} and reference agree: {WHERE['step']}" == found.verdict


def test_three_that_all_differ_have_no_majority(certificate: Callable[..., Certificate]) -> None:
    found = certificate([MXNET, ONEFLOW, PYTORCH], {"loss": [[MXNET], [ONEFLOW], [PYTORCH]]})

    assert (
        f"{MXNET} | {ONEFLOW} | {PYTORCH} differ, and there is no majority: {WHERE['loss']}"
    ) == found.verdict


def test_the_definition_of_the_loss_settles_which_of_two_is_right(
    certificate: Callable[..., Certificate],
) -> None:
    found = certificate([MXNET, PYTORCH], {"loss": [[MXNET], [PYTORCH]]}, defined={MXNET: 2.5, PYTORCH: 2.0})

    assert (
        f"{MXNET} stands alone while {PYTORCH} is as defined: {WHERE['loss']}; "
        f"{MXNET} computed 2, the definition gives 2.5"
    ) == found.verdict


def test_modes_of_one_framework_do_not_outvote_another(certificate: Callable[..., Certificate]) -> None:
    data, model, other = f"{MXNET} data 1n2g", f"{MXNET} model 1n2g", f"{PYTORCH} data 1n2g"

    found = certificate([data, model, other], {"loss": [[data, model], [other]]})

    assert "there is no majority" in found.verdict


def test_of_modes_of_one_framework_each_has_a_vote(certificate: Callable[..., Certificate]) -> None:
    data, model, partial = (f"{MXNET} {mode} 1n2g" for mode in ("data", "model", "partial_fc-1"))

    found = certificate([data, model, partial], {"loss": [[data, model], [partial]]})

    assert found.verdict.startswith(f"{partial} stands alone while {data} and {model} agree: ")


def test_agreement_with_only_a_part_of_the_majority_names_nobody(
    certificate: Callable[..., Certificate],
) -> None:
    """Near the tolerance: A agrees with B and B with C, and A differs from C."""
    found = certificate([MXNET, ONEFLOW, PYTORCH], {"loss": [[MXNET, ONEFLOW], [ONEFLOW, PYTORCH]]})

    assert "there is no majority" in found.verdict


def test_a_second_fault_behind_the_first_is_named_too(certificate: Callable[..., Certificate]) -> None:
    fourth = "paddle==3.0"
    groups: Groups = {
        "loss": [[MXNET], [ONEFLOW, PYTORCH, fourth]],
        "statistics": [[MXNET], [ONEFLOW], [PYTORCH, fourth]],
    }

    first, second = conclusion(certificate([MXNET, ONEFLOW, PYTORCH, fourth], groups)).splitlines()

    assert first.startswith(f"not aligned: {MXNET} stands alone while ")
    assert second == (
        f"not aligned: {ONEFLOW} stands alone while {PYTORCH} and {fourth} agree: {WHERE['statistics']}"
    )


def test_a_hint_follows_the_stage_that_it_explains(certificate: Callable[..., Certificate]) -> None:
    found = certificate(
        [MXNET, ONEFLOW, PYTORCH], {"step": [[MXNET], [ONEFLOW, PYTORCH]]}, hint="weight decay explains it"
    )

    assert found.verdict.endswith(f"{WHERE['step']}; weight decay explains it")


def test_who_has_nothing_to_compare_is_named_once_beside_what_differs(
    certificate: Callable[..., Certificate],
) -> None:
    found = certificate([MXNET, PYTORCH], {"loss": [[MXNET], [PYTORCH]]}, absent={ONEFLOW: "no Python: x"})

    difference, absent = conclusion(found).splitlines()

    assert "no majority" in difference
    assert f"not aligned: {ONEFLOW} has nothing to compare: no Python: x" == absent


def test_a_reference_that_failed_is_said_where_the_pairs_agree(
    certificate: Callable[..., Certificate],
) -> None:
    """It was asked for, so the alignment does not pass; the verdict must not sound as if it did."""
    sound = certificate([MXNET, PYTORCH], {})
    error = "reference: its program was ended: time_limit"
    failed = tuple(
        Pair(first=name, second="reference", passed=False, error=error) for name in (MXNET, PYTORCH)
    )

    assert "the reference has nothing to compare: its program was ended: time_limit" == verdict(
        sound.model_copy(update={"reference": failed, "passed": False})
    )


def test_the_table_says_who_agrees_at_each_stage(certificate: Callable[..., Certificate]) -> None:
    late = STAGES[STAGES.index("loss") :]
    found = certificate([MXNET, ONEFLOW, PYTORCH], {stage: [[MXNET], [ONEFLOW, PYTORCH]] for stage in late})

    assert [
        "stage        difference  who agrees                first to differ",
        "embeddings        1e-06  all",
        "loss              5e-01  oneflow, pytorch | mxnet  an.array",
    ] == rendered(stage_table(found)).splitlines()[:3]


def test_versions_and_modes_are_shown_where_they_tell_participants_apart(
    certificate: Callable[..., Certificate],
) -> None:
    other = "mxnet==1.9.0"

    versions = rendered(stage_table(certificate([MXNET, other], {"loss": [[MXNET], [other]]})))
    modes = [f"{MXNET} {mode} 1n2g" for mode in ("data", "model")]
    spread = rendered(stage_table(certificate(modes, {"loss": [[one] for one in modes]})))

    assert f"{MXNET} | {other}" in versions
    assert "mxnet data 1n2g | mxnet model 1n2g" in spread


@pytest.mark.parametrize(
    "name", sorted(str(path.relative_to(EVIDENCE)) for path in EVIDENCE.glob("*/align*.json"))
)
def test_committed_certificates_load_also_those_of_schema_version_1(name: str) -> None:
    found = load_certificate(EVIDENCE / name)

    assert (1 if name.startswith("parallel_cpu") else 2) == found.schema_version
    assert found.participants
    assert "aligned" in conclusion(found)


def test_a_certificate_comes_back_as_it_was_saved(
    certificate: Callable[..., Certificate], tmp_path: Path
) -> None:
    saved: Any = certificate([MXNET, PYTORCH], {"loss": [[MXNET], [PYTORCH]]}, hint="why")
    (tmp_path / "align.json").write_text(saved.model_dump_json())

    assert saved == load_certificate(tmp_path / "align.json")
    with pytest.raises(UserError, match="writes a certificate"):
        load_certificate(tmp_path / "none.json")
