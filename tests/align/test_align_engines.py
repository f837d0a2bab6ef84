"""Real engines: they agree as they are, and what is planted in one of them is named."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from dlperf.adapters.registry import load_adapters
from dlperf.align.certificate import Tolerance
from dlperf.align.course import Alignment
from dlperf.align.probe import Settings
from dlperf.align.programs import Contestant
from dlperf.files import shipped_folder, shipped_root
from dlperf.plan.case import Loss, Schedule, Workload
from dlperf.running.supervision import Interrupts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dlperf.align.certificate import Certificate

pytestmark = [pytest.mark.engine, pytest.mark.slow]

WORKLOAD = Workload(
    experiment="small",
    network="iresnet18",
    head="E",
    embedding_size=512,
    dropout=0.4,
    dataset="face_emore",
    loss=Loss(kind="cosface", m3=0.4),
    schedule=Schedule(learning_rate=0.1, steps=(100_000,), scales=(0.1,)),
)


@pytest.fixture
def align(engine_python: Callable[[str], Path], tmp_path: Path) -> Callable[..., Certificate]:
    """Align the named frameworks; `planted` gives one of them its own copy of the programs."""

    def run(*names: str, planted: dict[str, Path] | None = None, reference: str = "never") -> Certificate:
        adapters = load_adapters()
        contestants = [
            Contestant(
                name=f"{name}=={adapters[name].versions[0]}",
                version=adapters[name].versions[0],
                adapter=adapters[name],
                python=engine_python(name),
                code=(planted or {}).get(name, shipped_root()),
            )
            for name in names
        ]
        folder = tmp_path / "work"
        folder.mkdir()
        return Alignment(
            workload=WORKLOAD,
            contestants=contestants,
            settings=Settings(steps=3, num_classes=20, cores=2),
            tolerance=Tolerance(),
            reference=reference,
            time_limit_seconds=500,
            folder=folder,
            interrupts=Interrupts(say=lambda _: None),
            say=lambda _: None,
        ).certificate()

    return run


@pytest.fixture
def plant(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """A copy of `frameworks/` in which one text of one file is another; the folder that holds it."""

    def copy(file: str, before: str, after: str) -> Path:
        folder = tmp_path / "planted"
        ignored = shutil.ignore_patterns("__pycache__", "log")
        shutil.copytree(shipped_folder("frameworks"), folder / "frameworks", ignore=ignored)
        path = folder / "frameworks" / file
        text = path.read_text()
        assert 1 == text.count(before), f"{file} no longer holds {before!r} once"
        path.write_text(text.replace(before, after))
        return folder

    return copy


def only_pair(certificate: Certificate) -> tuple[bool, str]:
    (pair,) = certificate.pairs
    return pair.passed, pair.culprit or pair.error or ""


def test_all_frameworks_and_the_float64_reference_agree(align: Callable[..., Certificate]) -> None:
    certificate = align("mxnet", "oneflow", "pytorch", reference="always")

    assert [] == [pair for pair in (*certificate.pairs, *certificate.reference) if not pair.passed]
    assert (3, 3) == (len(certificate.pairs), len(certificate.reference))
    assert certificate.passed
    assert certificate.first_loss_difference is not None
    assert certificate.first_loss_difference <= 1e-4
    assert certificate.loss_difference is not None
    assert certificate.loss_difference <= 1e-3


def test_a_planted_cosface_margin_is_named_and_its_framework_accused(
    align: Callable[..., Certificate], plant: Callable[..., Path]
) -> None:
    """MXNet's script of 2021 had 0.35 where the comparison said 0.4."""
    code = plant("common/case.py", 'Loss(**workload["loss"])', 'Loss(**{**workload["loss"], "m3": 0.35})')

    certificate = align("mxnet", "pytorch", planted={"mxnet": code}, reference="auto")

    passed, culprit = only_pair(certificate)
    assert not passed
    assert "the margin head" in culprit
    assert "mxnet==1.9.1 computed" in culprit
    assert "as with m3=0.35 in place of 0.4" in culprit
    assert {"mxnet==1.9.1": False, "pytorch==2.13.0": True} == {
        pair.first: pair.passed for pair in certificate.reference
    }
    assert certificate.verdict.startswith("mxnet==1.9.1 differs from the reference: the margin head")
    assert not certificate.passed


def test_a_planted_eps_is_named(align: Callable[..., Certificate], plant: Callable[..., Path]) -> None:
    """1e-5 is what PyTorch and OneFlow take where none is given; the definition has 2e-5."""
    code = plant("common/networks.py", "IRESNET_EPS = 2e-5", "IRESNET_EPS = 1e-5")

    passed, culprit = only_pair(align("mxnet", "pytorch", planted={"mxnet": code}))

    assert not passed
    assert "BatchNorm eps in stem.bn: larger by about" in culprit
    assert culprit.endswith("in pytorch==2.13.0 than in mxnet==1.9.1")


def test_planted_weight_decay_on_no_bias_is_named(
    align: Callable[..., Certificate], plant: Callable[..., Path]
) -> None:
    code = plant("common/case.py", 'tuple(optimizer["no_decay"])', '("bias",)')

    certificate = align("mxnet", "pytorch", planted={"mxnet": code})

    passed, culprit = only_pair(certificate)
    assert not passed
    assert culprit.startswith(
        "weight decay of the linear layer's bias: pytorch==2.13.0 decays them more than"
    )
    assert "head.linear.bias" == certificate.pairs[0].first_to_differ


def test_a_planted_lack_of_momentum_is_named(
    align: Callable[..., Certificate], plant: Callable[..., Path]
) -> None:
    code = plant("common/case.py", '**optimizer, "no_decay"', '**optimizer, "momentum": 0.0, "no_decay"')

    passed, culprit = only_pair(align("mxnet", "pytorch", planted={"mxnet": code}))

    assert not passed
    assert culprit.startswith("a later update: momentum")


def test_a_loss_that_is_no_number_is_its_frameworks_error_and_the_others_are_compared(
    align: Callable[..., Certificate], plant: Callable[..., Path]
) -> None:
    code = plant("common/case.py", 'Loss(**workload["loss"])', 'Loss(**{**workload["loss"], "scale": 1e39})')

    certificate = align("mxnet", "oneflow", "pytorch", planted={"mxnet": code})

    errors = {(pair.first, pair.second): pair.error for pair in certificate.pairs}
    assert "mxnet==1.9.1: the loss of step 1 is inf" == errors["mxnet==1.9.1", "pytorch==2.13.0"]
    assert "mxnet==1.9.1: the loss of step 1 is inf" == errors["mxnet==1.9.1", "oneflow==0.9.0"]
    assert errors["oneflow==0.9.0", "pytorch==2.13.0"] is None
    assert certificate.pairs[-1].passed
    assert not certificate.passed


def test_a_program_that_fails_is_an_error_with_its_last_words(
    align: Callable[..., Certificate], plant: Callable[..., Path]
) -> None:
    code = plant("mxnet/align.py", "    align.run(MXNetAlign)", "    raise RuntimeError('planted')")

    certificate = align("mxnet", "pytorch", planted={"mxnet": code})

    assert "mxnet==1.9.1: its program failed: RuntimeError: planted" == certificate.pairs[0].error
    assert "mxnet==1.9.1 has nothing to compare: its program failed: RuntimeError: planted" == (
        certificate.verdict
    )
