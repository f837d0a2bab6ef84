"""arcface_oneflow: its environment, what it refuses, and what is written and edited for a case."""

from __future__ import annotations

import ast
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

from dlperf.adapters.arcface_oneflow import ADAPTER
from dlperf.adapters.oneflow import ADAPTER as ONEFLOW
from dlperf.importing.dialects import load_dialects
from dlperf.plan.case import Loss, Measure, Optimizer, Schedule, Topology

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "recognition/arcface_oneflow"
CONFIG = f"{FOLDER}/configs/dlperf.py"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_environment_is_that_of_oneflow_with_what_the_program_imports(device: Any) -> None:
    for version in ADAPTER.versions:
        spec, engine = ADAPTER.environment(version, device), ONEFLOW.environment(version, device)
        assert engine.requirements == spec.requirements[: len(engine.requirements)]
        assert all("==" in requirement for requirement in spec.requirements)
        assert (engine.pythons, engine.cuda) == (spec.pythons, spec.cuda)
        assert spec.import_check.endswith(engine.import_check)
    with pytest.raises(ValueError, match=r"arcface_oneflow 0\.8\.0 is unknown; known versions: 0\.9\.0"):
        ADAPTER.environment("0.8.0", device)


def test_a_process_per_device_meets_the_others_as_from_oneflows_launcher() -> None:
    program = program_of(ADAPTER, case_of(ADAPTER, devices=2, device="cuda"))
    assert ("arcface_torch", "oneflow") == (program.dialect, program.distribution)
    assert program.dialect in load_dialects()
    for rank, process in enumerate(program.processes):
        assert ("/environment/bin/python", "train.py", "configs/dlperf.py", "--graph") == process.argv
        assert FOLDER == process.folder
        wanted = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "1234",
            "ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION": "0",
            "NVIDIA_TF32_OVERRIDE": "0",
        }
        assert wanted.items() <= process.env.items()
        assert not any("OPENBLAS_CORE" in name for name in process.env)
    (process,) = program_of(ADAPTER, case_of(ADAPTER, device="cuda", options={"tf32": True})).processes
    assert "1" == process.env["ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION"]


def test_the_configuration_of_a_case(tmp_path: Path) -> None:
    text = program_of(ADAPTER, case_of(ADAPTER, data=None)).files[CONFIG]
    assert (
        text
        == """\
# Written by dlperf for one case.
from easydict import EasyDict

config = EasyDict({
    'network': 'r50',
    'embedding_size': 512,
    'loss': 'arcface',
    'model_parallel': True,
    'partial_fc': False,
    'sample_rate': 1.0,
    'num_classes': 50,
    'fp16': False,
    'batch_size': 8,
    'lr': 0.1,
    'momentum': 0.9,
    'weight_decay': 0.0005,
    'synthetic': True,
    'ofrecord_path': '',
    'ofrecord_part_num': 0,
    'num_image': 2147483647,
    'num_epoch': 1,
    'warmup_epoch': -1,
    'decay_epoch': [1],
    'val_targets': [],
    'output': 'output',
})
"""
    )
    whole = config_of(
        ADAPTER, tmp_path, data=None, parallelism="data", workload=workload(loss=Loss(kind="cosface", m3=0.4))
    )
    assert {"model_parallel": False, "loss": "cosface"}.items() <= whole.items()
    sampled = config_of(
        ADAPTER, tmp_path, data=None, parallelism="partial_fc", device="cuda", precision="fp16"
    )
    assert {
        "model_parallel": True,
        "partial_fc": True,
        "sample_rate": 0.1,
        "fp16": True,
    }.items() <= sampled.items()


@pytest.mark.parametrize("place", ["ofrecord/train", "ofrecord", "train", "."])
def test_the_configuration_finds_the_parts_where_they_are(tmp_path: Path, place: str) -> None:
    faces = tmp_path / "f[a]ces"
    (faces / place).mkdir(parents=True)
    for number in range(3):
        (faces / place / f"part-{number:05d}").touch()
    data = FACES.model_copy(update={"path": str(faces)})
    config = config_of(ADAPTER, tmp_path, data=data)
    assert (str(faces / place), 3) == (config["ofrecord_path"].rstrip("/."), config["ofrecord_part_num"])


def test_a_path_is_written_as_a_literal(tmp_path: Path) -> None:
    data = FACES.model_copy(update={"path": STRANGE_PATH})
    assert STRANGE_PATH == config_of(ADAPTER, tmp_path, data=data)["ofrecord_path"]


CUDA = {"device": "cuda"}
SAMPLED = {"parallelism": "partial_fc"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallelism": "data"},
        {"data": None},
        {"workload": workload(head="E", dropout=0.4)},
        {"workload": workload(loss=Loss(kind="combined", m2=0.5))},
        {"workload": workload(optimizer=Optimizer(momentum=0.5))},
        {**CUDA, "devices": 2},
        {**CUDA, **SAMPLED, "devices": 2, "precision": "fp16"},
        {**CUDA, "devices": 4, "parallelism": "data"},
    ],
)
def test_what_can_run(changes: dict[str, Any]) -> None:
    assert ADAPTER.unsupported(case_of(ADAPTER, **changes)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"topology": Topology(nodes=2, devices_per_node=1)}, "on one node alone"),
        ({"workload": workload(batch_norm="frozen")}, "leave out batch_norm: frozen"),
        (
            {"data": FACES.model_copy(update={"forms": ("recordio",)})},
            "the program reads OFRecord and faces ",
        ),
        ({"data": FACES.model_copy(update={"read": "memory"})}, "take read: warm or read: cold"),
        ({"data": FACES.model_copy(update={"classes": 51})}, "has 51 classes, more than num_classes: 50"),
        (
            {"workload": workload(network="mobilefacenet", head="GDC", embedding_size=128)},
            "the program has IResNets alone, no mobilefacenet",
        ),
        ({"workload": workload(loss=Loss(kind="arcface", m2=0.5, scale=30))}, "by 64 alone, not 30"),
        ({"workload": workload(loss=Loss(kind="cosface", m3=0.35))}, "CosFace with m3: 0.4 alone"),
        ({"workload": workload(loss=Loss(kind="softmax"))}, "ArcFace with m2: 0.5"),
        ({"workload": workload(optimizer=Optimizer(decay="decoupled"))}, "leave out decay and no_decay"),
        ({"precision": "fp16"}, "OneFlow trains fp32 alone on CPU"),
        ({**CUDA, "precision": "fp16", "gradient_dtype": "float16"}, "leave out gradient_dtype: float16"),
        ({"devices": 2}, "OneFlow aborts on cpu where a graph of several processes reads data"),
        (SAMPLED, "has no kernel for the CPU"),
        ({**CUDA, "devices": 4}, "take a num_classes that 4 divides, such as 52"),
        ({"workload": workload(schedule=Schedule(steps=(100,), scales=(0.1,)))}, "leave out schedule.steps"),
        (
            {"data": None, "measure": Measure(warmup_iterations=1000, measured_iterations=9000)},
            "one of 10000 iterations ends within the run; measure fewer iterations",
        ),
    ],
)
def test_what_cannot_run_has_a_reason(changes: dict[str, Any], reason: str) -> None:
    assert reason in (ADAPTER.unsupported(case_of(ADAPTER, **changes)) or "")


def test_on_cuda_what_oneflow_renamed_is_edited_and_the_length_of_a_line() -> None:
    edits = edited(ADAPTER, **CUDA, data=None)
    assert {"function.py"} == {file for file, _, _ in edits}
    assert not any("consistent" in after or "l2_" in after for _, _, after in edits)
    assert (
        "function.py",
        "            50, rank, cfg.total_step",
        "            20, rank, cfg.total_step",
    ) == edits[-1]
    (read,) = [edit for edit in edited(ADAPTER, **CUDA) if edit not in edits]
    assert ("utils/ofrecord_data_utils.py", "os.path.join(ofrecord_root, mode)", "ofrecord_root") == read
    (drop,) = [
        edit
        for edit in edited(ADAPTER, **CUDA, data=None, workload=workload(head="E", dropout=0.4))
        if edit not in edits
    ]
    assert ("function.py", "cfg.network, dropout=0.0,", "cfg.network, dropout=0.4,") == drop


def test_on_the_cpu_no_edit_leaves_cuda() -> None:
    assert not any("cuda" in after for _, _, after in edited(ADAPTER))


@pytest.mark.parametrize(
    "changes",
    [{}, {"parallelism": "data", "data": None}, CUDA, {"workload": workload(head="E", dropout=0.4)}],
)
def test_the_edits_fit_the_program(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = checkout(
        "DLPERF_UPSTREAM_INSIGHTFACE_TORCH", url=ADAPTER.source.url, commit=ADAPTER.source.commits[0]
    )
    program = program_of(ADAPTER, case_of(ADAPTER, **changes))
    work = tmp_path / "work"
    work_folder(source, program, work)
    for edit in program.edits:
        ast.parse((work / edit.file).read_text())
    graph = "".join((work / FOLDER / file).read_text() for file in ("train.py", "graph.py"))
    assert ("cuda" in graph) == (changes.get("device") == "cuda")
