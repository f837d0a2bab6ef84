"""Real engines on several devices: data parallel, model parallel and Partial FC compute one function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dlperf.adapters.registry import load_adapters
from dlperf.align.certificate import Tolerance
from dlperf.align.course import Alignment
from dlperf.align.modes import Mode
from dlperf.align.probe import Settings
from dlperf.align.programs import Contestant
from dlperf.files import shipped_root
from dlperf.plan.case import Loss, Schedule, Topology, Workload
from dlperf.running.supervision import Interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dlperf.align.certificate import Certificate

pytestmark = [pytest.mark.engine, pytest.mark.slow]

WORKLOAD = Workload(
    experiment="small",
    network="mobilefacenet",
    head="GDC",
    embedding_size=128,
    dataset="face_emore",
    loss=Loss(kind="arcface", m2=0.5),
    schedule=Schedule(learning_rate=0.1, steps=(100_000,), scales=(0.1,)),
)
FRAMEWORKS = ("mxnet", "oneflow", "pytorch")
# 2 and 4 devices share them unevenly.
CLASSES = 51


def mode(parallelism: str, devices: int, ratio: float | None = None) -> Mode:
    topology = Topology(nodes=1, devices_per_node=devices)
    return Mode(parallelism=parallelism, topology=topology, sample_ratio=ratio)


def every_way(devices: int) -> list[Mode]:
    return [mode("data", devices), mode("model", devices), mode("partial_fc", devices, 1.0)]


@pytest.fixture
def align(engine_python: Callable[[str], Path], tmp_path: Path) -> Callable[..., Certificate]:
    """Align frameworks, each in a mode; `size` images a device where there are most devices."""

    def run(
        contenders: Sequence[tuple[str, Mode]],
        *,
        size: int = 4,
        frozen: bool = False,
        reference: str = "never",
    ) -> Certificate:
        adapters = load_adapters()
        contestants = [
            Contestant(
                name=f"{name}=={adapters[name].versions[0]} {mode}",
                version=adapters[name].versions[0],
                adapter=adapters[name],
                python=engine_python(name),
                code=shipped_root(),
                mode=mode,
            )
            for name, mode in contenders
        ]
        settings = Settings(
            steps=4,
            batch_size=size,
            num_classes=CLASSES,
            cores=1,
            global_devices=max(mode.topology.world_size for _, mode in contenders),
            frozen_batch_norm=frozen,
        )
        return Alignment(
            workload=WORKLOAD,
            contestants=contestants,
            settings=settings,
            tolerance=Tolerance(),
            reference=reference,
            time_limit_seconds=400,
            folder=tmp_path,
            interrupts=Interrupts(say=lambda _: None),
            say=lambda _: None,
        ).certificate()

    return run


def broken(certificate: Certificate) -> list[str]:
    """What does not agree, in words."""
    pairs = (*certificate.pairs, *certificate.reference)
    return [
        f"{pair.first} / {pair.second}: {pair.error or pair.culprit or pair.first_to_differ}"
        for pair in pairs
        if not pair.passed
    ]


@pytest.mark.timeout(1200)  # ten programs, one after the other, perhaps beside other load
@pytest.mark.parametrize(("devices", "size"), [(2, 4), (4, 2)])
def test_all_ways_to_spread_a_case_agree_across_frameworks_and_with_one_process(
    align: Callable[..., Certificate], devices: int, size: int
) -> None:
    """The process is the reference, in float64: it normalises each device's share by itself and has the
    classes undivided.
    """
    contenders = [(framework, way) for framework in FRAMEWORKS for way in every_way(devices)]

    certificate = align(contenders, size=size, reference="always")

    assert [] == broken(certificate)
    assert (36, 9) == (len(certificate.pairs), len(certificate.reference))
    assert certificate.loss_difference is not None
    assert certificate.loss_difference <= 1e-4


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_with_frozen_norms_any_number_of_devices_agrees_with_one(
    align: Callable[..., Certificate], framework: str
) -> None:
    modes = (mode("data", 1), mode("data", 2), mode("model", 2), mode("model", 4))

    certificate = align([(framework, one) for one in modes], size=1, frozen=True)

    assert [] == broken(certificate)
    assert certificate.loss_difference is not None
    assert certificate.loss_difference <= 1e-4


def test_partial_fc_samples_and_trains_the_same_classes_in_all_frameworks(
    align: Callable[..., Certificate],
) -> None:
    sampled = mode("partial_fc", 2, 0.1)

    certificate = align([(name, sampled) for name in FRAMEWORKS], reference="always")

    assert [] == broken(certificate)
