"""oneflow_face: the command line, the edit and what is refused; the program itself was never run."""

from __future__ import annotations

import os
import runpy
import sys
from typing import TYPE_CHECKING, Any

import pytest
from original_programs import (
    EASYDICT,
    FACES,
    STRANGE_PATH,
    case_of,
    evaluated,
    program_of,
    work_folder,
    workload,
)
from upstream import checkout

from dlperf.adapters.oneflow_face import ADAPTER
from dlperf.importing.dialects import load_dialects
from dlperf.plan.case import Case, Loss, Optimizer, Schedule, Topology
from dlperf.plan.versions import specification_of

if TYPE_CHECKING:
    from pathlib import Path

DECOUPLED = Optimizer(decay="decoupled")


def _work(**changes: Any) -> Any:
    return workload(**{"network": "iresnet100", "optimizer": DECOUPLED, **changes})


def _case(**changes: Any) -> Case:
    return case_of(ADAPTER, **{"device": "cuda", "workload": _work(), **changes})


def _tables(folder: Path, **changes: Any) -> dict[str, Any]:
    (edit,) = program_of(ADAPTER, _case(**changes)).edits
    before = "import os\nfrom easydict import EasyDict as edict\n"
    empty = "network, dataset, loss = edict(), edict(), edict()\n"
    tables = evaluated(
        before + empty + edit.after, "[written.network, written.dataset, written.loss]", folder
    )
    return dict(zip(("network", "dataset", "loss"), (table["dlperf"] for table in tables), strict=True))


def test_the_engine_comes_from_the_user() -> None:
    spec = ADAPTER.environment("0.3.4", "cuda")
    assert "no longer on PyPI: give your own in the sweep, python: or wheel:" in spec.notes
    own = specification_of("0.3.4", adapter=ADAPTER, device="cuda", parallel=True, own_python=True)
    assert spec == own
    with pytest.raises(ValueError, match="trains on cuda alone"):
        ADAPTER.environment("0.3.4", "cpu")
    with pytest.raises(ValueError, match=r"oneflow_face 0\.9\.0 is unknown; known versions: 0\.3\.4"):
        ADAPTER.environment("0.9.0", "cuda")


def test_one_process_drives_all_devices() -> None:
    program = program_of(ADAPTER, _case(devices=2, num_classes=100, parallelism="partial_fc"))
    assert ("oneflow_face", "oneflow_cu102") == (program.dialect, program.distribution)
    assert program.dialect in load_dialects()
    (process,) = program.processes
    assert (
        "/environment/bin/python insightface_train.py --network dlperf --dataset dlperf --loss dlperf "
        "--device_num_per_node 2 --model_parallel 1 --partial_fc 1 --sample_ratio 0.1 --use_synthetic_data 0 "
        "--use_fp16 0 --train_unit batch --train_iter 2147483647 --lr 0.1 --lr_steps 2147483647 --scales 0.1 "
        "--weight_decay 0.0005 --momentum 0.9 --loss_print_frequency 20 --do_validation_while_train 0 "
        "--validation_interval 2147483647 --iter_num_in_snapshot 2147483647 --models_root models "
        "--log_dir log"
    ) == " ".join(process.argv)
    assert "." == process.folder


def test_the_arguments_of_a_schedule_and_of_synthetic_images() -> None:
    schedule = Schedule(learning_rate=0.2, steps=(10, 20), scales=(0.5, 0.05))
    case = _case(workload=_work(schedule=schedule), data=None, parallelism="data", precision="fp16")
    (process,) = program_of(ADAPTER, case).processes
    words = dict(zip(process.argv[2::2], process.argv[3::2], strict=True))
    wanted = {
        "--lr": "0.2",
        "--lr_steps": "10,20",
        "--scales": "0.5,0.05",
        "--use_synthetic_data": "1",
        "--model_parallel": "0",
        "--partial_fc": "0",
        "--use_fp16": "1",
    }
    assert wanted.items() <= words.items()


def test_the_edit_adds_the_case_to_the_tables(tmp_path: Path) -> None:
    faces = tmp_path / "faces" / "ofrecord" / "train"
    faces.mkdir(parents=True)
    for number in range(4):
        (faces / f"part-{number:05d}").touch()
    data = FACES.model_copy(update={"path": str(tmp_path / "faces")})
    loss = Loss(kind="combined", m1=1.1, m2=0.3, m3=0.2)
    tables = _tables(tmp_path, data=data, workload=_work(head="FC", loss=loss))
    assert {
        "network": {
            "net_name": "fresnet100",
            "emb_size": 512,
            "fc_type": "FC",
            "bn_is_training": True,
            "input_channel": 512,
        },
        "dataset": {
            "dataset": "dlperf",
            "dataset_dir": str(faces),
            "num_classes": 50,
            "total_img_num": 5000,
            "part_name_prefix": "part-",
            "part_name_suffix_length": 5,
            "train_data_part_num": 4,
            "shuffle": True,
            "train_batch_size_per_device": 8,
        },
        "loss": {
            "loss_name": "margin_softmax",
            "loss_s": 64.0,
            "loss_m1": 1.1,
            "loss_m2": 0.3,
            "loss_m3": 0.2,
        },
    } == tables


def test_a_path_is_written_as_a_literal(tmp_path: Path) -> None:
    data = FACES.model_copy(update={"path": STRANGE_PATH})
    assert STRANGE_PATH == _tables(tmp_path, data=data)["dataset"]["dataset_dir"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": None, "devices": 2, "parallelism": "data"},
        {"workload": _work(head="E", dropout=0.4)},
        {"workload": _work(network="mobilefacenet", head="GDC", embedding_size=128)},
    ],
)
def test_what_can_run(changes: dict[str, Any]) -> None:
    assert ADAPTER.unsupported(_case(**changes)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cpu"}, "trains on cuda alone"),
        ({"topology": Topology(nodes=2, devices_per_node=1)}, "on one node alone"),
        ({"data": FACES.model_copy(update={"forms": ("recordio",)})}, "the program reads OFRecord"),
        ({"workload": _work(network="iresnet50")}, "IResNet-100 and MobileFaceNet alone, no iresnet50"),
        ({"workload": _work(head="E", dropout=0.2)}, "the program drops 0.4 of head E, not 0.2"),
        ({"workload": workload(network="iresnet100")}, "write decay: decoupled"),
        ({"precision": "bf16"}, "mixed precision in fp16 alone"),
        ({"precision": "fp16", "gradient_dtype": "float16"}, "leave out gradient_dtype: float16"),
        ({"devices": 4}, "take a num_classes that 4 divides, such as 52"),
    ],
)
def test_what_cannot_run_has_a_reason(changes: dict[str, Any], reason: str) -> None:
    assert reason in (ADAPTER.unsupported(_case(**changes)) or "")


def test_the_program_takes_the_command_line_and_finds_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's own parser and tables, with a stand-in for OneFlow 0.3, which cannot be installed."""
    source = checkout(
        "DLPERF_UPSTREAM_ONEFLOW_FACE", url=ADAPTER.source.url, commit=ADAPTER.source.commits[0]
    )
    program = program_of(ADAPTER, _case(parallelism="partial_fc", data=None))
    work = tmp_path / "work"
    work_folder(source, program, work)
    stand_ins = {
        "easydict": EASYDICT.replace(
            "(dict):", "(dict):\n    def __delattr__(self, name): del self[name]", 1
        ),
        "oneflow": "",
        "ofrecord_util": "",
        "validation_util": "",
        "callback_util": "TrainMetric = None",
        "insightface_val": "Validator = None",
        "symbols": "fresnet100 = fmobilefacenet = None",
    }
    beside = tmp_path / "beside"
    beside.mkdir()
    for name, text in stand_ins.items():
        (beside / f"{name}.py").write_text(text)
    (process,) = program.processes
    monkeypatch.setattr(sys, "argv", [*process.argv[1:]])
    monkeypatch.setattr(sys, "path", [str(beside), str(work), *sys.path])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = set(sys.modules)
    try:
        program_names = runpy.run_path(str(work / "insightface_train.py"), run_name="read")
        args, config = program_names["get_train_args"](), program_names["config"]
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]
    assert (1, True, True) == (args.device_num_per_node, args.model_parallel, args.partial_fc)
    assert (True, False, False) == (args.use_synthetic_data, args.use_fp16, args.do_validation_while_train)
    assert ([2147483647], [0.1], 0.1) == (args.lr_steps, args.scales, args.sample_ratio)
    assert ("fresnet100", "FC", 50) == (config.net_name, config.fc_type, config.num_classes)
    assert 8 == program_names["default"].train_batch_size_per_device
