"""Real engines: they agree as they are, in every mode, and what is planted in one of them is found."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import engines
import pytest
from engines import copy_of_programs

from dlperf.adapters.registry import load_adapters
from dlperf.align import programs
from dlperf.align.certificate import Certificate, Tolerance
from dlperf.align.participants import ON_ONE_DEVICE, Mode, Participant, Settings
from dlperf.align.programs import Alignment
from dlperf.cli.align import TOLERANCES
from dlperf.files import shipped_root
from dlperf.plan.case import Loss, Schedule, Topology, Workload
from dlperf.running.supervision import Interrupts

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
ENGINES = (*FRAMEWORKS, "jax")  # where JAX, which compiles for long, adds something
MXNET, ONEFLOW, PYTORCH, JAX = ("mxnet==1.9.1", "oneflow==0.9.0", "pytorch==2.13.0", "jax==0.10.2")
# 2 and 4 devices share them unevenly.
CLASSES = 51


@pytest.fixture
def align(engine_python: Callable[[str], Path], tmp_path: Path) -> Callable[..., Certificate]:
    """Align frameworks, each in a mode; `planted` gives some of them their own copy of the programs."""

    def run(
        participants: Sequence[tuple[str, Mode]],
        *,
        planted: dict[str, Path] | None = None,
        reference: Any = "always",
        tolerance: float = 1e-4,
        **settings: Any,
    ) -> Certificate:
        adapters = load_adapters()
        return Alignment(
            workload=WORKLOAD,
            participants=[
                Participant(
                    name=f"{name}=={adapters[name].versions[0]}"
                    + ("" if mode == ON_ONE_DEVICE else f" {mode}"),
                    version=adapters[name].versions[0],
                    adapter=adapters[name],
                    python=engine_python(name),
                    code=(planted or {}).get(name, shipped_root()),
                    mode=mode,
                )
                for name, mode in participants
            ],
            settings=Settings(
                num_classes=CLASSES,
                global_devices=max(mode.topology.world_size for _, mode in participants),
                **settings,
            ),
            tolerance=Tolerance.of_first_step(tolerance),
            reference=reference,
            time_limit_seconds=900,
            folder=tmp_path,
            interrupts=Interrupts(say=lambda _: None),
            say=lambda _: None,
        ).certificate()

    return run


@pytest.fixture
def short_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlperf.files._PACKAGE", engines.short_network(tmp_path / "short"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where outputs of programs as they are, are kept from test to test."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def plant(
    align: Callable[..., Certificate], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Certificate]:
    """Align with one text of one file replaced in the copy of `frameworks/` that `victim` runs.

    Programs without a plant run once for all tests: the same weights and batches give the same outputs.
    """
    run_program = programs.run_program

    def run_once(participant: Participant, *arguments: Any, **named: Any) -> Any:
        outputs = kept / f"{participant.name}.npz"
        if participant.code == shipped_root() and outputs.is_file():
            return (outputs,), 1.0
        files, seconds = run_program(participant, *arguments, **named)
        if participant.code == shipped_root():
            shutil.copy(files[0], outputs)
        return files, seconds

    def planted(
        victim: str, file: str, before: str, after: str, names: Sequence[str] = FRAMEWORKS, **options: Any
    ) -> Certificate:
        folder = tmp_path / "planted"
        if not folder.exists():
            copy_of_programs(folder, file, {before: after})
        monkeypatch.setattr(programs, "run_program", run_once)
        participants = [(name, ON_ONE_DEVICE) for name in names]
        return align(participants, planted={victim: folder}, steps=3, cores=2, **options)

    return planted


def broken(certificate: Certificate) -> list[str]:
    """What does not agree, in words."""
    pairs = (*certificate.pairs, *certificate.reference)
    return [
        f"{pair.first} / {pair.second}: {pair.error or pair.first_to_differ}"
        for pair in pairs
        if not pair.passed
    ]


def loss_difference(certificate: Certificate) -> float:
    return max(max(pair.figures.losses) for pair in certificate.pairs if pair.figures)


def test_all_frameworks_and_the_reference_agree(plant: Callable[..., Certificate]) -> None:
    certificate = plant("none", "common/case.py", "class Loss(", "class Loss(", ENGINES)

    assert [] == broken(certificate)
    assert (6, 4) == (len(certificate.pairs), len(certificate.reference))
    assert certificate.passed
    assert loss_difference(certificate) <= 1e-3


def test_pytorch_alone_agrees_with_the_reference_in_bf16_within_the_bounds_for_it(
    align: Callable[..., Certificate],
) -> None:
    certificate = align([("pytorch", ON_ONE_DEVICE)], steps=2, precision="bf16", tolerance=TOLERANCES["bf16"])

    (pair,) = certificate.reference
    assert [] == broken(certificate)
    assert () == certificate.pairs
    assert certificate.passed
    assert "bf16" == certificate.case.precision
    assert 1e-4 < pair.at("embeddings").difference  # so it did compute in bf16, and the reference did not
    assert certificate.verdict.startswith("max loss difference ")


def test_another_margin_is_a_loss_that_the_definition_does_not_give(
    plant: Callable[..., Certificate],
) -> None:
    found = plant(
        "mxnet", "common/case.py", 'Loss(**workload["loss"])', 'Loss(**{**workload["loss"], "m2": 0.45})'
    )

    start = (
        f"{MXNET} stands alone while {ONEFLOW}, {PYTORCH} and reference agree: the embeddings agree, "
        f"the first loss differs; {MXNET} computed "
    )
    assert found.verdict.startswith(start)
    assert 1 == found.verdict.count("the definition gives")
    assert not found.passed


def test_labels_off_by_one_are_no_other_margin(plant: Callable[..., Certificate]) -> None:
    change = 'zip(arrays["images"], arrays["labels"])'
    shifted = 'zip(arrays["images"], (arrays["labels"] + 1) % case.num_classes)'

    found = plant("mxnet", "common/align.py", change, shifted)
    two = plant("mxnet", "common/align.py", change, shifted, ("mxnet", "pytorch"), reference="never")

    assert found.verdict.startswith(
        f"{MXNET} stands alone while {ONEFLOW}, {PYTORCH} and reference agree: the embeddings agree, "
        f"the first loss differs; {MXNET} computed "
    )
    assert "margin" not in found.verdict
    # Of two the definition of the loss tells which is right.
    assert two.verdict.startswith(
        f"{MXNET} stands alone while {PYTORCH} is as defined: the embeddings agree, "
    )


def test_another_eps_is_found_at_the_next_norm(plant: Callable[..., Certificate]) -> None:
    change = ("mxnet", "common/networks.py", "MOBILEFACENET_EPS = 1e-3", "MOBILEFACENET_EPS = 2e-3")

    found = plant(*change)
    two = plant(*change, ("mxnet", "pytorch"))

    where = "the forward pass differs, first in conv2.bn.running_mean"
    assert f"{MXNET} stands alone while {ONEFLOW}, {PYTORCH} and reference agree: {where}" == found.verdict
    assert (
        f"{PYTORCH} and reference | {MXNET} differ, and there is no majority "
        f"(the reference runs pytorch's program and settles nothing): {where}"
    ) == two.verdict


def test_weight_decay_on_no_bias_is_explained(plant: Callable[..., Certificate]) -> None:
    found = plant("mxnet", "common/case.py", 'tuple(optimizer["no_decay"])', '("bias",)')

    assert (
        f"{MXNET} stands alone while {ONEFLOW}, {PYTORCH} and reference agree: the gradients agree, 1 of 184 "
        "parameters differ after the first step (the linear layer's bias), first head.linear.bias; weight "
        f"decay explains it: {ONEFLOW} decays the linear layer's bias more than {MXNET}, by 1 times "
        "the defined decay"
    ) == found.verdict


def test_a_lack_of_momentum_shows_in_later_steps(plant: Callable[..., Certificate]) -> None:
    found = plant(
        "mxnet", "common/case.py", '**optimizer, "no_decay"', '**optimizer, "momentum": 0.0, "no_decay"'
    )

    assert (
        f"{MXNET} stands alone while {ONEFLOW}, {PYTORCH} and reference agree: the first step agrees, "
        "later steps differ, first in loss of step 3"
    ) == found.verdict


def test_another_momentum_of_one_norm_is_found_in_its_statistics_alone(
    plant: Callable[..., Certificate],
) -> None:
    layer = "stage1.unit2.expand.bn"
    momentum = "momentum=1 - networks.BATCH_NORM_MOMENTUM)"
    other = f'momentum=0.2 if layer.name == "{layer}" else 1 - networks.BATCH_NORM_MOMENTUM)'

    found = plant("oneflow", "oneflow/network.py", momentum, other)

    assert (
        f"{ONEFLOW} stands alone while {MXNET}, {PYTORCH} and reference agree: the parameters agree, "
        f"2 of 100 BatchNorm statistics differ after the first step, first {layer}.running_mean; another "
        f"momentum explains it: these statistics move 0.5 times as far in {MXNET} as in {ONEFLOW}"
    ) == found.verdict


def test_another_momentum_of_one_norm_is_found_in_jax_too(plant: Callable[..., Certificate]) -> None:
    layer = "stage1.unit2.expand.bn"
    moved = 'given.moved[f"{layer.name}.running_{part}"] = moved'
    other = f'{moved} * 2 - of_past[part] if layer.name == "{layer}" else moved'

    found = plant("jax", "jax/network.py", moved, other, ENGINES)

    assert (
        f"{JAX} stands alone while {MXNET}, {ONEFLOW}, {PYTORCH} and reference agree: the parameters agree, "
        f"2 of 100 BatchNorm statistics differ after the first step, first {layer}.running_mean; another "
        f"momentum explains it: these statistics move 0.5 times as far in {MXNET} as in {JAX}"
    ) == found.verdict


def test_a_stride_at_another_convolution_accuses_neither_of_the_two_that_agree(
    plant: Callable[..., Certificate],
) -> None:
    """The reference runs the same network code, and so cannot outvote them."""
    before = """(channels[0], expand), 1),
        *_conv_bn_prelu(f"{name}.depthwise", (expand, expand), 3, stride, expand),"""
    after = """(channels[0], expand), 1, stride if name == "down2" else 1),
        *_conv_bn_prelu(
            f"{name}.depthwise", (expand, expand), 3, 1 if name == "down2" else stride, expand),"""

    found = plant("pytorch", "common/networks.py", before, after)

    assert (
        f"{PYTORCH} stands alone (with the reference, which runs the same program) while {MXNET} and "
        f"{ONEFLOW} agree: the forward pass differs, first in down2.expand.bn.running_mean"
    ) == found.verdict


def test_a_loss_that_is_no_number_is_its_frameworks_error_and_the_others_are_compared(
    plant: Callable[..., Certificate],
) -> None:
    huge = 'Loss(**{**workload["loss"], "scale": 1e39})'

    found = plant("mxnet", "common/case.py", 'Loss(**workload["loss"])', huge, reference="never")

    errors = [pair.error for pair in found.pairs]
    assert [f"{MXNET}: the loss of step 1 is inf"] * 2 + [None] == errors
    assert [False, False, True] == [pair.passed for pair in found.pairs]
    assert not found.passed


def test_a_program_that_fails_is_an_error_with_its_last_words(plant: Callable[..., Certificate]) -> None:
    crash = "    raise RuntimeError('planted')"

    found = plant("mxnet", "mxnet/align.py", "    align.run(MXNetAlign)", crash, ("mxnet", "pytorch"))

    assert f"{MXNET}: its program failed: RuntimeError: planted" == found.pairs[0].error
    assert f"{MXNET} has nothing to compare: its program failed: RuntimeError: planted" == found.verdict


def mode(parallelism: Any, devices: int, ratio: float | None = None) -> Mode:
    topology = Topology(nodes=1, devices_per_node=devices)
    return Mode(parallelism=parallelism, topology=topology, sample_ratio=ratio)


@pytest.mark.timeout(1200)  # eight programs, one after the other, perhaps beside other load
@pytest.mark.usefixtures("short_network")
def test_modes_of_two_devices_agree_across_frameworks_and_with_the_reference_in_one_process(
    align: Callable[..., Certificate],
) -> None:
    """The reference, in float64, normalises each device's share separately and does not split the classes.

    Partial FC: of 2 devices below with a sample, of 4 with all classes in the next test.
    """
    participants = [(name, one) for name in ENGINES for one in (mode("data", 2), mode("model", 2))]

    certificate = align(participants, steps=4, batch_size=4)

    assert [] == broken(certificate)
    count = len(participants)
    assert (count * (count - 1) / 2, count) == (len(certificate.pairs), len(certificate.reference))
    assert loss_difference(certificate) <= 1e-4


@pytest.mark.usefixtures("short_network")
@pytest.mark.parametrize("framework", ENGINES)
def test_with_frozen_norms_any_number_of_devices_agrees_with_one(
    align: Callable[..., Certificate], framework: str
) -> None:
    modes = [mode("data", 1), mode("data", 4), mode("model", 4)]
    if framework != "jax":  # whose Partial FC with all classes is its model parallel
        modes.append(mode("partial_fc", 4, 1.0))

    certificate = align(
        [(framework, one) for one in modes],
        steps=4,
        batch_size=1,
        frozen_batch_norm=True,
        reference="never",
    )

    assert [] == broken(certificate)
    assert loss_difference(certificate) <= 1e-4


@pytest.mark.usefixtures("short_network")
def test_partial_fc_samples_and_trains_the_same_classes_in_all_frameworks(
    align: Callable[..., Certificate],
) -> None:
    sampled = mode("partial_fc", 2, 0.1)

    certificate = align([(name, sampled) for name in ENGINES], steps=4, batch_size=4)

    assert [] == broken(certificate)
