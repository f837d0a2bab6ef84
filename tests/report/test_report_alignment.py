"""What a report says about alignment: proven, broken, outdated, or in the open not proven."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from run_folders import Y1, make_case, store_good_runs

from dlperf.align.certificate import (
    Certificate,
    Figures,
    Pair,
    ParticipantResult,
    Tolerance,
    Worst,
)
from dlperf.errors import UserError
from dlperf.layout import CERTIFICATE_NAME
from dlperf.plan.case import Topology
from dlperf.report.document import Request, build_report
from dlperf.report.render import render

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("mxnet==1.9.1", "oneflow==0.9.0")


def certificate(**changes: Any) -> Certificate:
    worst = Worst(name="stem.conv.weight", difference=2.5e-6)
    figures = Figures(
        embeddings=1.5e-6,
        losses=(1e-7, 3e-6),
        gradient_norm=worst,
        first_step=worst,
        parameters=worst,
        statistics=worst,
    )
    fields = {
        "dlperf_version": "0.1.0",
        "created_at": "2026-01-02T00:00:00Z",
        "experiment": "y1",
        "experiment_hash": Y1.content_hash,
        "case": make_case(),
        "steps": 2,
        "tolerance": Tolerance(),
        "participants": tuple(ParticipantResult(name=name, version=name.split("==")[1]) for name in NAMES),
        "pairs": (Pair(first=NAMES[0], second=NAMES[1], passed=True, figures=figures),),
        "verdict": "max loss difference 3e-06 over 2 steps",
        "passed": True,
    }
    return Certificate(**{**fields, **changes})


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "y1"
    store_good_runs(folder, make_case(), [10.0, 10.1])
    store_good_runs(folder, make_case(framework="oneflow", version="0.9.0"), [5.0, 5.1])
    return folder


def report(sweep: Path, *certificates: Path, strict: bool = False) -> str:
    request = Request(paths=(sweep,), certificates=certificates)
    return render(build_report(request, strict=strict), request)


def test_without_a_certificate_it_is_not_proven(sweep: Path) -> None:
    text = report(sweep)
    assert "- alignment: **not proven (make a certificate: dlperf align y1)**\n" in text
    assert "## Alignment" not in text


def test_a_certificate_beside_the_results_is_shown_with_its_figures(sweep: Path) -> None:
    (sweep / CERTIFICATE_NAME).write_text(certificate().model_dump_json())
    text = report(sweep)
    assert (
        "- alignment: aligned: max loss difference 3e-06 over 2 steps (mxnet==1.9.1, oneflow==0.9.0; " in text
    )
    assert "### y1, 2 steps, 2026-01-02\n" in text
    row = next(line for line in text.splitlines() if line.startswith("| mxnet==1.9.1, oneflow==0.9.0"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "mxnet==1.9.1, oneflow==0.9.0",
        "yes",
        "1.5e-06",
        "1.0e-07",
        "3.0e-06",
        "2.5e-06",
        "2.5e-06",
        "2.5e-06",
        "",
    ]


def test_a_certificate_in_bf16_is_shown_and_proves_nothing(sweep: Path) -> None:
    case = make_case(precision="bf16")
    (sweep / "align-data-1n1g-bf16.json").write_text(certificate(case=case).model_dump_json())

    text = report(sweep)

    assert "- alignment: **not proven (make a certificate: dlperf align y1)**\n" in text
    assert "### y1 (bf16), 2 steps, 2026-01-02\n" in text


def test_a_given_certificate_is_taken_in_place_of_those_beside_the_results(
    sweep: Path, tmp_path: Path
) -> None:
    (sweep / CERTIFICATE_NAME).write_text(certificate().model_dump_json())
    pair = Pair(first=NAMES[0], second=NAMES[1], passed=False, hint="the margin: m3 0.35 for 0.4")
    broken = certificate(passed=False, verdict="losses differ by 4 %", pairs=(pair,))
    (tmp_path / "other.json").write_text(broken.model_dump_json())
    text = report(sweep, tmp_path / "other.json")
    assert "- alignment: **not aligned: losses differ by 4 %**\n" in text
    assert "the margin: m3 0.35 for 0.4" in text
    assert "not compared" in text


def test_a_framework_that_nobody_aligned_is_named(sweep: Path) -> None:
    (sweep / CERTIFICATE_NAME).write_text(certificate().model_dump_json())
    store_good_runs(sweep, make_case(framework="pytorch", version="2.13.0"), [9.0])
    assert "; **not proven for pytorch==2.13.0**\n" in report(sweep)


def test_an_experiment_that_changed_since_is_not_proven(sweep: Path) -> None:
    (sweep / CERTIFICATE_NAME).write_text(certificate(experiment_hash="0" * 12).model_dump_json())
    assert "- alignment: **not proven: the experiment changed since it was aligned" in report(sweep)


def test_a_damaged_certificate_beside_the_results_is_named(sweep: Path) -> None:
    (sweep / CERTIFICATE_NAME).write_text("{")
    text = report(sweep)
    assert "> - <code>y1/align.json: no certificate" in text
    assert "**not proven" in text
    with pytest.raises(UserError, match="no certificate"):
        report(sweep, strict=True)


def test_a_given_certificate_that_is_not_there_is_an_error(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json"):
        report(sweep, tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("align-data-1n1g-frozen.json", {"workload": Y1.model_copy(update={"batch_norm": "frozen"})}),
        ("align-partial_fc-0.1-1n1g.json", {"parallelism": "partial_fc", "sample_ratio": 0.1}),
    ],
)
def test_a_proof_of_another_function_proves_nothing(sweep: Path, name: str, changes: dict[str, Any]) -> None:
    """Its file may stand before align.json, and its experiment is the same."""
    other = certificate(case=make_case(**changes), verdict="max loss difference 5e-05 over 2 steps")
    (sweep / name).write_text(other.model_dump_json())
    assert "- alignment: **not proven" in report(sweep)

    (sweep / CERTIFICATE_NAME).write_text(certificate().model_dump_json())

    assert "- alignment: aligned: max loss difference 3e-06 over 2 steps" in report(sweep)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A sweep of model parallel training on two devices."""
    folder = tmp_path / "several"
    for framework, version in (("mxnet", "1.9.1"), ("oneflow", "0.9.0")):
        two = Topology(nodes=1, devices_per_node=2)
        case = make_case(framework=framework, version=version, parallelism="model", topology=two)
        store_good_runs(folder, case, [10.0, 10.1])
    return folder


def spread(parallelism: str) -> Certificate:
    names = [f"{name} {parallelism} 1n2g" for name in NAMES]
    participants = tuple(ParticipantResult(name=name, version="1") for name in names)
    pair = certificate().pairs[0].model_copy(update={"first": names[0], "second": names[1]})
    return certificate(participants=participants, pairs=(pair,))


def test_a_proof_on_one_device_is_none_on_several(several: Path) -> None:
    (several / CERTIFICATE_NAME).write_text(certificate().model_dump_json())
    (several / "align-data-1n2g.json").write_text(spread("data").model_dump_json())

    (line,) = [line for line in report(several).splitlines() if line.startswith("- alignment")]

    assert line.startswith("- alignment: one rank: aligned: max loss difference 3e-06")
    command = "dlperf align y1 --parallelism model --topology 1n2g"
    assert line.endswith(f"several ranks: **not proven (make a certificate: {command})**")


def test_a_proof_on_several_devices_is_that_of_the_tables_parallelism(several: Path) -> None:
    (several / "align-model-1n2g.json").write_text(spread("model").model_dump_json())

    (line,) = [line for line in report(several).splitlines() if line.startswith("- alignment")]

    assert "one rank: **not proven" in line
    assert "several ranks: aligned: max loss difference 3e-06 over 2 steps" in line
