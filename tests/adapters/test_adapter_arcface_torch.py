"""arcface_torch: its environment, what it refuses, and what is written and edited for a case."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from original_programs import (
    FACES,
    STRANGE_PATH,
    case_of,
    config_of,
    edited,
    program_of,
    work_folder,
    workload,
)
from upstream import checkout

from dlperf.adapters.arcface_torch import ADAPTER
from dlperf.adapters.mxnet import ADAPTER as MXNET
from dlperf.adapters.pytorch import ADAPTER as PYTORCH
from dlperf.importing.dialects import load_dialects
from dlperf.plan.case import Loss, Measure, Optimizer, Schedule, Search, Topology

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "recognition/arcface_torch"
CONFIG = f"{FOLDER}/configs/dlperf.py"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_environment_is_that_of_pytorch_with_an_mxnet_to_read_with(device: Any) -> None:
    for version in ADAPTER.versions:
        spec, engine = ADAPTER.environment(version, device), PYTORCH.environment(version, device)
        reader = MXNET.environment("1.9.1", "cpu")
        assert engine.requirements[0] == spec.requirements[0]
        assert set(reader.requirements) < set(spec.requirements)  # its numpy, not PyTorch's
        assert all("==" in requirement for requirement in spec.requirements)
        assert set(spec.pythons) == set(engine.pythons) & set(reader.pythons)
        same = replace(spec, framework="", requirements=(), pythons=(), import_check="", notes="")
        assert same == replace(engine, framework="", requirements=(), pythons=(), import_check="", notes="")
    with pytest.raises(ValueError, match=r"pytorch 1\.12 is unknown"):
        ADAPTER.environment("1.12", device)


def test_a_process_per_device_finds_the_others_as_from_torchrun() -> None:
    program = program_of(ADAPTER, case_of(ADAPTER, devices=2))
    assert ("arcface_torch", "torch") == (program.dialect, program.distribution)
    assert program.dialect in load_dialects()
    for rank, process in enumerate(program.processes):
        assert ("/environment/bin/python", "train_v2.py", "configs/dlperf.py") == process.argv
        assert FOLDER == process.folder
        wanted = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "1234",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "2",
        }
        assert wanted.items() <= process.env.items()
    (process,) = program_of(ADAPTER, case_of(ADAPTER, device="cuda")).processes
    assert "GLOO_SOCKET_IFNAME" not in process.env
    off = {"NVIDIA_TF32_OVERRIDE": "0", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0"}
    assert off.items() <= process.env.items()
    (process,) = program_of(ADAPTER, case_of(ADAPTER, device="cuda", options={"tf32": True})).processes
    assert dict.fromkeys(off, "1").items() <= process.env.items()


def test_the_configuration_of_a_case(tmp_path: Path) -> None:
    text = program_of(ADAPTER, case_of(ADAPTER)).files[CONFIG]
    assert (
        text
        == """\
# Written by dlperf for one case.
from easydict import EasyDict

config = EasyDict({
    'network': 'r50',
    'embedding_size': 512,
    'margin_list': (1.0, 0.5, 0.0),
    'sample_rate': 1.0,
    'num_classes': 50,
    'fp16': False,
    'batch_size': 8,
    'lr': 0.1,
    'weight_decay': 0.0005,
    'seed': 0,
    'rec': '/data/faces',
    'num_workers': 2,
    'num_image': 5000,
    'num_epoch': 2147483647,
    'warmup_epoch': 0,
    'frequent': 20,
    'verbose': 2147483647,
    'val_targets': [],
    'output': 'output',
})
"""
    )
    sampled = config_of(
        ADAPTER, tmp_path, parallelism="partial_fc", sample_ratio=0.3, seed=7, options={"workers": 0}
    )
    assert {"sample_rate": 0.3, "seed": 7, "num_workers": 0}.items() <= sampled.items()
    synthetic = config_of(ADAPTER, tmp_path, data=None)
    assert {"rec": "synthetic", "num_image": 1_000_000}.items() <= synthetic.items()
    half = config_of(ADAPTER, tmp_path, device="cuda", precision="fp16", gradient_dtype="float16")
    assert half["fp16"] is True


def test_a_path_is_written_as_a_literal(tmp_path: Path) -> None:
    data = FACES.model_copy(update={"path": STRANGE_PATH})
    assert STRANGE_PATH == config_of(ADAPTER, tmp_path, data=data)["rec"]


@pytest.mark.parametrize(
    ("warmup", "measured", "images", "expected"),
    [
        (20, 100, 5000, 20),
        (50, 100, 5000, 50),
        (15, 100, 5000, 5),
        (0, 40, 5000, 20),
        (3, 100, 5000, 1),
        (20, 100, 8 * 139, 10),  # 139 iterations per epoch: a line's worth comes before the warm-up
        (20, 100, 8 * 121, 1),
    ],
)
def test_a_line_covers_iterations_that_divide_warm_up_and_measured(
    tmp_path: Path, warmup: int, measured: int, images: int, expected: int
) -> None:
    changes: dict[str, Any] = {
        "measure": Measure(warmup_iterations=warmup, measured_iterations=measured),
        "data": FACES.model_copy(update={"images": images}),
    }
    program = program_of(ADAPTER, case_of(ADAPTER, **changes))
    assert (expected, expected) == (
        program.iterations_per_line,
        config_of(ADAPTER, tmp_path, **changes)["frequent"],
    )


SAMPLED = {"parallelism": "partial_fc"}
TWO_NODES = Topology(nodes=2, devices_per_node=1)
SHORT = "the program saves its model at the end of an epoch, and one of "


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"devices": 2},
        {"parallelism": "data"},
        {**SAMPLED, "devices": 2},
        {"data": None},
        {"workload": workload(network="mobilefacenet", head="GDC", embedding_size=128)},
        {"workload": workload(head="E", dropout=0.4)},
        {"workload": workload(loss=Loss(kind="softmax"))},
        {"workload": workload(loss=Loss(kind="cosface", m3=0.35))},
        {"workload": workload(loss=Loss(kind="combined", m2=0.3))},
        {"workload": workload(schedule=Schedule(steps=(140,), scales=(0.1,)))},
        {"device": "cuda", "precision": "fp16", "gradient_dtype": "float16"},
        {"data": FACES.model_copy(update={"read": "cold"})},
    ],
)
def test_what_can_run(changes: dict[str, Any]) -> None:
    assert ADAPTER.unsupported(case_of(ADAPTER, **changes)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"topology": TWO_NODES}, "dlperf starts original programs on one node alone"),
        ({"workload": workload(batch_norm="frozen")}, "leave out batch_norm: frozen"),
        (
            {"data": FACES.model_copy(update={"forms": ("ofrecord",)})},
            "the program reads RecordIO and faces ",
        ),
        ({"data": FACES.model_copy(update={"read": "memory"})}, "take read: warm or read: cold"),
        ({"data": FACES.model_copy(update={"classes": 51})}, "has 51 classes, more than num_classes: 50"),
        ({"parallelism": "data", "devices": 2}, "take parallelism: model"),
        ({"precision": "fp16", "gradient_dtype": "float16"}, "on cpu it silently trains in fp32"),
        ({"precision": "bf16"}, "the program has mixed precision in fp16 alone"),
        ({"device": "cuda", "precision": "fp16"}, "write gradient_dtype: float16"),
        ({"workload": workload(loss=Loss(kind="arcface", m2=0.5, scale=30))}, "by 64 alone, not 30"),
        ({"workload": workload(loss=Loss(kind="combined", m2=0.3, m3=0.2))}, "combines none"),
        ({"workload": workload(loss=Loss(kind="combined", m1=1.1))}, "combines none"),
        ({"workload": workload(optimizer=Optimizer(momentum=0.5))}, "has momentum 0.9 alone, not 0.5"),
        ({"workload": workload(optimizer=Optimizer(decay="decoupled"))}, "leave out decay and no_decay"),
        ({"workload": workload(optimizer=Optimizer(no_decay=("bias",)))}, "leave out decay and no_decay"),
        (
            {"workload": workload(schedule=Schedule(steps=(139,), scales=(0.1,)))},
            "does so in iteration 139; leave out schedule.steps",
        ),
        ({"batch_size_per_device": 1}, "refuses to train on one value a channel"),
        (
            {"data": FACES.model_copy(update={"images": 512})},
            f"{SHORT}64 iterations ends within the run; take a data set of at least 968 images, or measure ",
        ),
        (
            {
                "search": Search(
                    axis="batch_size_per_device", lower=8, granularity=8, upper=64, iterations=5
                ),
                "data": FACES.model_copy(update={"images": 2000}),
            },
            f"{SHORT}31 iterations ends",
        ),
    ],
)
def test_what_cannot_run_has_a_reason(changes: dict[str, Any], reason: str) -> None:
    assert reason in (ADAPTER.unsupported(case_of(ADAPTER, **changes)) or "")


def test_on_cuda_what_pytorch_dropped_is_edited_alone() -> None:
    dropped = ("lr_scheduler.py", "last_epoch=last_epoch, verbose=verbose)", "last_epoch=last_epoch)")
    assert [dropped] == edited(ADAPTER, device="cuda")
    mobile = workload(network="mobilefacenet", head="GDC", embedding_size=128)
    (_, (file, before, after)) = edited(ADAPTER, device="cuda", workload=mobile)
    assert "backbones/mobilefacenet.py" == file
    assert after == before.replace("scale=2", "scale=1")
    (_, drop) = edited(ADAPTER, device="cuda", workload=workload(head="E", dropout=0.4))
    assert ("train_v2.py", "cfg.network, dropout=0.0,", "cfg.network, dropout=0.4,") == drop


def test_on_the_cpu_no_edit_leaves_cuda_and_sampling_has_edits_of_its_own() -> None:
    edits = edited(ADAPTER)
    assert not any("cuda" in after or "nccl" in after for _, _, after in edits)
    more = edited(ADAPTER, parallelism="partial_fc")
    assert edits == more[: len(edits)]
    assert {"partial_fc_v2.py"} == {file for file, _, _ in more[len(edits) :]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"devices": 2, "parallelism": "partial_fc"},
        {"device": "cuda", "parallelism": "partial_fc"},
        {"workload": workload(head="E", dropout=0.4)},
        {"workload": workload(network="mobilefacenet", head="GDC", embedding_size=128)},
    ],
)
def test_the_edits_fit_the_program(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = checkout(
        "DLPERF_UPSTREAM_INSIGHTFACE_TORCH", url=ADAPTER.source.url, commit=ADAPTER.source.commits[0]
    )
    program = program_of(ADAPTER, case_of(ADAPTER, **changes))
    work = tmp_path / "work"
    diff = work_folder(source, program, work)
    assert any(line.startswith(f"+++ b/{CONFIG}") for line in diff)
    for edit in program.edits:
        ast.parse((work / edit.file).read_text())
    if changes.get("device") != "cuda":
        left = [
            line.strip()
            for file in ("train_v2.py", "partial_fc_v2.py")
            for line in (work / FOLDER / file).read_text().splitlines()
            if ".cuda()" in line or "nccl" in line
        ]
        sampled = changes.get("parallelism") == "partial_fc"
        # What is left is of another optimizer, and without sampling that of the sampling.
        assert (1 if sampled else 5) == len(left), left
