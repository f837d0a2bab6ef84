"""InsightFace's trainers for MXNet: environments, refusals, and what is written for a case."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from cases import case_of, launch_of, workload
from upstream import checkout

from dlperf.adapters.base import Program, RankCommand
from dlperf.adapters.insightface_mxnet import ADAPTER
from dlperf.adapters.mxnet import ADAPTER as MXNET
from dlperf.environments.builds import wheel_key
from dlperf.files import shipped_folder
from dlperf.plan.case import Case, DataSet, Loss, Measure, Optimizer, Schedule, Search, Topology, Workload
from dlperf.running.launch import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

FACES = DataSet(path="/data/faces", forms=("recordio",), images=512, classes=50, index_sha256="0" * 64)
PARALL = "recognition/ArcFace/parall_module_local_v1.py"
MEMORY = "recognition/partial_fc/mxnet"


def _iresnet(layers: int = 50, **changes: Any) -> Workload:
    return workload(**{"network": f"iresnet{layers}", "head": "E", "embedding_size": 512, **changes})


def _case(**changes: Any) -> Case:
    work = _iresnet() if changes.get("parallelism") == "partial_fc" else workload()
    return case_of(ADAPTER, **{"workload": work, "num_classes": 50, "data": FACES, **changes})


def _command(case: Case) -> RankCommand:
    (command,) = ADAPTER.rank_commands(launch_of(case))
    return command


def _program(case: Case) -> Program:
    program = _command(case).program
    assert program is not None
    return program


def _arcface_config(case: Case, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What config.py adds to a sample_config.py that has nothing."""
    sample = ModuleType("sample_config")
    tables: dict[str, Any] = {"network": {}, "loss": {}, "dataset": {}}
    vars(sample).update(tables, config=None, default=None, generate_config=None)
    monkeypatch.setitem(sys.modules, "sample_config", sample)
    text = _program(case).files["recognition/ArcFace/config.py"]
    exec(compile(text, "config.py", "exec"), {})  # noqa: S102 - what the program would import
    return tables


def _partial_fc_config(case: Case, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    easydict = ModuleType("easydict")
    vars(easydict)["EasyDict"] = dict
    monkeypatch.setitem(sys.modules, "easydict", easydict)
    names: dict[str, Any] = {}
    text = _program(case).files[f"{MEMORY}/default.py"]
    exec(compile(text, "default.py", "exec"), names)  # noqa: S102 - what the program would import
    names["generate_config"]("cosface", "emore", "r100")
    config: dict[str, Any] = names["config"]
    return config


def test_an_environment_is_mxnets_with_horovod_and_what_the_programs_import() -> None:
    assert MXNET.versions == ADAPTER.versions
    for device in ("cpu", "cuda"):
        spec = ADAPTER.environment("1.9.1", device)
        engine = MXNET.environment("1.9.1", device, parallel=True)
        assert engine.requirements == spec.requirements[: len(engine.requirements)]
        assert all("==" in requirement for requirement in spec.requirements)
        assert {"mxboard==0.1.0", "protobuf==3.20.3", "scipy==1.10.1"} <= set(spec.requirements)
        assert (engine.pythons, engine.cuda) == (spec.pythons, spec.cuda)
    parallel = ADAPTER.environment("1.9.1", "cpu", parallel=True)
    assert parallel == replace(ADAPTER.environment("1.9.1", "cpu"), parallel=True)
    with pytest.raises(ValueError, match=r"mxnet 1\.6\.0 needs Python 3\.7"):
        ADAPTER.environment("1.6.0", "cpu")


def test_horovod_is_compiled_once_for_these_programs_and_dlperfs_own_loop() -> None:
    own = MXNET.environment("1.9.1", "cpu", parallel=True)
    spec = ADAPTER.environment("1.9.1", "cpu")
    assert wheel_key(own.builds[0], own, "3.10.1") == wheel_key(spec.builds[0], spec, "3.10.1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"topology": Topology(nodes=2, devices_per_node=1)}, "on one node alone"),
        ({"data": None}, "the programs read a data set; add data: {path: ...}"),
        ({"data": FACES.model_copy(update={"forms": ("ofrecord",)})}, "RecordIO and faces has none"),
        ({"data": FACES.model_copy(update={"read": "memory"})}, "decodes images while it trains"),
        ({"num_classes": 49}, "faces has 50 classes, more than num_classes: 49"),
        ({"precision": "fp16", "device": "cuda"}, "train.py trains fp32 alone"),
        (
            {"precision": "fp16", "device": "cuda", "parallelism": "model"},
            "train_parall.py trains fp32 alone",
        ),
        ({"precision": "bf16", "device": "cuda", "parallelism": "partial_fc"}, "no bfloat16 kernels"),
        ({"precision": "fp16", "parallelism": "partial_fc"}, "FP16 gemm on cpu"),
        ({"precision": "fp16", "device": "cuda", "parallelism": "partial_fc"}, "gradient_dtype: float16"),
        ({"workload": _iresnet(dropout=0.2)}, "drop 0.4 of head E, not 0.2"),
        ({"workload": workload(classifier_init_std=0.02)}, "standard deviation 0.01"),
        ({"workload": workload(batch_norm="frozen")}, "leave out batch_norm: frozen"),
        (
            {"workload": workload(optimizer=Optimizer(decay="decoupled"))},
            "decays every parameter, coupled; leave out decay",
        ),
        ({"workload": workload(optimizer=Optimizer(no_decay=("bias",)))}, "leave out decay and no_decay"),
        (
            {"workload": workload(schedule=Schedule(steps=(10, 20), scales=(0.1, 0.05)))},
            "by 0.1 at each step",
        ),
        (
            {"workload": workload(loss=Loss(kind="softmax")), "parallelism": "model"},
            "train_parall.py needs a margin",
        ),
        ({"workload": workload(), "parallelism": "partial_fc"}, "IResNets alone, no mobilefacenet"),
        (
            {"workload": _iresnet(optimizer=Optimizer(momentum=0.8)), "parallelism": "partial_fc"},
            "momentum 0.9 alone, not 0.8",
        ),
        (
            {"workload": _iresnet(optimizer=Optimizer(weight_decay=0.0)), "parallelism": "partial_fc"},
            "weight decay 0.0005 alone",
        ),
        (
            {"batch_size_per_device": 300},
            "512 images make 1 iteration of 300 samples per epoch and train.py needs 2; use a larger",
        ),
        ({"batch_size_per_device": 600, "parallelism": "partial_fc"}, "train_memory.py needs 1"),
    ],
)
def test_what_the_programs_cannot_do_is_unsupported(changes: dict[str, Any], reason: str) -> None:
    assert reason in str(ADAPTER.unsupported(_case(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallelism": "model", "devices": 2},
        {"measure": Measure(warmup_iterations=1, measured_iterations=1)},
        {"parallelism": "partial_fc", "devices": 2},
        {"parallelism": "partial_fc", "sample_ratio": 1.0, "batch_size_per_device": 300},
        {
            "parallelism": "partial_fc",
            "precision": "fp16",
            "gradient_dtype": "float16",
            "device": "cuda",
            "devices": 8,
        },
        {"workload": _iresnet(100, head="FC"), "num_classes": 360232},
        {"workload": workload(loss=Loss(kind="softmax"))},
        {"workload": _iresnet(loss=Loss(kind="softmax")), "parallelism": "partial_fc"},
        {"workload": workload(schedule=Schedule(steps=(10, 20, 30), scales=(0.1, 0.01, 0.001)))},
        {"workload": workload(optimizer=Optimizer(momentum=0.5, weight_decay=0.0))},
    ],
)
def test_what_they_can_do_is_supported(changes: dict[str, Any]) -> None:
    assert ADAPTER.unsupported(_case(**changes)) is None


def test_a_search_may_not_reach_a_batch_that_is_longer_than_the_data() -> None:
    search = {"lower": 8, "granularity": 8, "iterations": 20}
    case = _case(search=Search(axis="batch_size_per_device", upper=256, **search))
    assert ADAPTER.unsupported(case) is None
    case = _case(search=Search(axis="batch_size_per_device", upper=512, **search))
    reason = str(ADAPTER.unsupported(case))
    assert "1 iteration of 512 samples" in reason
    assert reason.endswith("use a larger data set or a smaller upper bound of the search")


def test_data_parallel_runs_train_py() -> None:
    program = _program(_case())
    (process,) = program.processes
    words = (
        "/environment/bin/python -m frameworks.original.script train.py --network mobilefacenet "
        "--dataset case --loss arcface "
        "--models-root models --ckpt 0 --verbose 2147483647 --lr 0.1 --lr-steps 2147483647 --wd 0.0005 "
        "--mom 0.9 --frequent 20 --per-batch-size 8"
    )
    assert tuple(words.split()) == process.argv
    assert ({"CUDA_VISIBLE_DEVICES": ""}, "recognition/ArcFace") == (process.env, process.folder)
    assert ("insightface_mxnet", 20, "mxnet", ()) == (
        program.dialect,
        program.iterations_per_line,
        program.distribution,
        program.edits,
    )
    expected = """\
# Written by dlperf for one case. All else is as in sample_config.py.
from sample_config import config, dataset, default, generate_config, loss, network

network['mobilefacenet'] = {
    'net_name': 'fmobilefacenet',
    'net_output': 'GDC',
    'emb_size': 128,
}
loss['arcface'] = {
    'loss_name': 'margin_softmax',
    'loss_s': 64.0,
    'loss_m1': 1.0,
    'loss_m2': 0.5,
    'loss_m3': 0.0,
}
dataset['case'] = {
    'dataset': 'case',
    'dataset_path': '/data/faces',
    'num_classes': 50,
    'image_shape': (112, 112, 3),
    'val_targets': [],
}
"""
    assert {"recognition/ArcFace/config.py": expected} == program.files


def test_all_threads_of_the_case_compute() -> None:
    env = _command(_case(threads_per_device=8)).env
    assert ("8", "1") == (env["OMP_NUM_THREADS"], env["MXNET_CPU_WORKER_NTHREADS"])


def test_model_parallel_runs_train_parall_py_on_as_many_cpus() -> None:
    program = _program(_case(parallelism="model", devices=2))
    words = "/environment/bin/python -m frameworks.original.script train_parall.py"
    assert tuple(words.split()) == program.processes[0].argv[:4]
    assert [
        ("recognition/ArcFace/train_parall.py", "ctx = [mx.cpu()]", "ctx = [mx.cpu(i) for i in range(2)]"),
        (PARALL, "context=mx.gpu(i),", "context=self._context[i],"),
    ] == [(edit.file, edit.before, edit.after) for edit in program.edits]
    assert 1 == len(_program(_case(parallelism="model")).edits)


def test_on_cuda_nothing_is_edited_and_the_process_sees_as_many_devices() -> None:
    command = _command(_case(parallelism="model", devices=4, device="cuda"))
    program = command.program
    assert program is not None
    (process,) = program.processes
    words = "/environment/bin/python -m frameworks.original.first_devices 4 /environment/bin/python"
    assert (*words.split(), "-m", "frameworks.original.script", "train_parall.py") == process.argv[:8]
    assert {"MXNET_CPU_WORKER_NTHREADS": "8"} == process.env
    assert ((), "mxnet-cu112", 4) == (program.edits, program.distribution, command.devices)
    assert "nvidia/cudnn/lib" in command.paths["LD_LIBRARY_PATH"]
    assert "0" == command.env["NVIDIA_TF32_OVERRIDE"]
    command = _command(_case(device="cuda", options={"tf32": True}))
    assert "1" == command.env["NVIDIA_TF32_OVERRIDE"]
    assert () == _program(_case(parallelism="partial_fc", device="cuda", devices=2)).edits


def test_partial_fc_runs_train_memory_py_in_a_process_per_device() -> None:
    program = _program(_case(parallelism="partial_fc", devices=2))
    words = "/environment/bin/python -m frameworks.original.horovod train_memory.py --models-root models"
    assert [tuple(words.split())] * 2 == [process.argv for process in program.processes]
    assert ["0", "1"] == [process.env["DLPERF_RANK"] for process in program.processes]
    assert all(process.env["DLPERF_WORLD_SIZE"] == "2" for process in program.processes)
    assert all(process.folder == MEMORY for process in program.processes)
    assert [
        (f"{MEMORY}/memory_module.py", "mx.gpu(self.local_rank)", "mx.cpu()"),
        (f"{MEMORY}/memory_bank.py", "mx.gpu(local_rank)", "mx.cpu()"),
    ] == [(edit.file, edit.before, edit.after) for edit in program.edits]
    assert ("partial_fc_mxnet", 20) == (program.dialect, program.iterations_per_line)


def test_partial_fcs_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    work = _iresnet(
        head="FC",
        loss=Loss(kind="cosface", m3=0.4),
        schedule=Schedule(learning_rate=0.2, steps=(200000, 400000), scales=(0.1, 0.01)),
    )
    config = _partial_fc_config(_case(parallelism="partial_fc", workload=work), monkeypatch)
    assert {
        "net_name": "resnet",
        "num_layers": 50,
        "net_output": "FC",
        "net_input": 1,
        "net_unit": 3,
        "net_act": "prelu",
        "net_se": 0,
        "bn_mom": 0.9,
        "workspace": 256,
        "memonger": False,
        "image_size": 112,
        "embedding_size": 512,
        "loss_s": 64.0,
        "loss_m1": 1.0,
        "loss_m2": 0.0,
        "loss_m3": 0.4,
        "num_classes": 50,
        "sample_ratio": 0.1,
        "rec": "/data/faces/train.rec",
        "val_targets": [],
        "batch_size": 8,
        "backbone_lr": 0.2,
        "memory_bank_lr": 0.2,
        "lr_steps": "200000,400000",
        "fp16": False,
        "frequent": 20,
        "verbose": 2147483647,
        "max_update": 0,
        "debug": 0,
    } == config


@pytest.mark.parametrize(
    ("layers", "head", "loss", "margins"),
    [
        (18, "E", Loss(kind="softmax"), (1.0, 0.0, 0.0)),
        (34, "FC", Loss(kind="cosface", m3=0.35), (1.0, 0.0, 0.35)),
        (50, "E", Loss(kind="combined", m1=1.1, m2=0.3, m3=0.2), (1.1, 0.3, 0.2)),
        (100, "E", Loss(kind="arcface", m2=0.5), (1.0, 0.5, 0.0)),
    ],
)
def test_every_iresnet_and_loss_has_a_configuration(
    monkeypatch: pytest.MonkeyPatch, layers: int, head: str, loss: Loss, margins: tuple[float, ...]
) -> None:
    tables = _arcface_config(_case(workload=_iresnet(layers, head=head, loss=loss)), monkeypatch)
    assert {
        f"iresnet{layers}": {
            "net_name": "fresnet",
            "num_layers": layers,
            "net_output": head,
            "emb_size": 512,
        }
    } == tables["network"]
    written = tables["loss"][loss.kind]
    assert margins == tuple(written[f"loss_m{number}"] for number in (1, 2, 3))
    assert ("margin_softmax", 64.0) == (written["loss_name"], written["loss_s"])


@pytest.mark.parametrize("path", ["/data/it's", '/data/"""', "/data/a\nimport os", "/data/\\", "/data/{0}%s"])
def test_a_path_is_written_as_a_literal(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    data = FACES.model_copy(update={"path": path})
    tables = _arcface_config(_case(data=data), monkeypatch)
    assert path == tables["dataset"]["case"]["dataset_path"]
    assert (
        f"{path}/train.rec"
        == _partial_fc_config(_case(parallelism="partial_fc", data=data), monkeypatch)["rec"]
    )


@pytest.mark.parametrize(
    ("parallelism", "warmup", "measured", "images", "expected"),
    [
        ("data", 50, 200, 5822653, 50),
        ("data", 20, 100, 5822653, 20),
        ("data", 20, 50, 5822653, 10),
        ("data", 15, 100, 5822653, 5),
        ("model", 0, 40, 5822653, 20),
        ("data", 3, 100, 5822653, 1),
        ("data", 20, 100, 160, 10),  # an epoch has 20 iterations, of which 19 are in lines
        ("data", 20, 100, 16, 1),
        ("partial_fc", 20, 100, 160, 20),  # its counter runs on over epochs
        ("partial_fc", 50, 100, 160, 50),
        ("partial_fc", 0, 100, 160, 1),  # the first line claims an iteration too many
    ],
)
def test_a_line_covers_iterations_that_divide_warm_up_and_measured(
    parallelism: str, warmup: int, measured: int, images: int, expected: int
) -> None:
    measure = Measure(warmup_iterations=warmup, measured_iterations=measured)
    data = FACES.model_copy(update={"images": images})
    case = _case(parallelism=parallelism, measure=measure, data=data)
    assert expected == _program(case).iterations_per_line


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, "0,1"), ("", "0,1"), ("3,1,2", "3,1"), ("GPU-a, GPU-b", "GPU-a,GPU-b")]
)
def test_a_program_sees_the_first_devices_of_the_users(visible: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    show = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    output = subprocess.check_output(
        [sys.executable, "-m", "frameworks.original.first_devices", "2", *show],
        cwd=shipped_folder("frameworks").parent,
        env=environment,
        text=True,
    )
    assert expected == output.strip()


_READER = """\
import sys, threading
def read():
    print(__name__, sys.argv, flush=True)
    raise {error}
thread = threading.Thread(target=read)
thread.start()
thread.join()
threading.Event().wait({seconds})
"""


@pytest.mark.parametrize(("error", "seconds", "code"), [("ValueError(8)", "", 1), ("SystemExit", "0", 0)])
def test_a_program_ends_where_a_thread_of_it_fails(
    tmp_path: Path, error: str, seconds: str, code: int
) -> None:
    (tmp_path / "program.py").write_text(_READER.format(error=error, seconds=seconds))
    done = subprocess.run(
        [sys.executable, "-m", "frameworks.original.script", "program.py", "--word"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(shipped_folder("frameworks").parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (code, "__main__ ['program.py', '--word']\n") == (done.returncode, done.stdout)
    assert ("ValueError: 8" in done.stderr) == (code == 1)


_HOROVOD_PROGRAM = """\
import sys
import horovod.mxnet as hvd
import mxnet as mx
import beside
hvd.init()
total = hvd.allreduce(mx.nd.array([hvd.rank() + 1]), average=False, name="total").asscalar()
print(__name__, sys.argv, hvd.rank(), hvd.size(), total, beside.__name__)
"""


@pytest.mark.engine
def test_horovods_programs_meet_without_horovodrun(
    tmp_path: Path, engine_python: Callable[[str], Path]
) -> None:
    (tmp_path / "program.py").write_text(_HOROVOD_PROGRAM)
    (tmp_path / "beside.py").write_text("")
    port = free_port()
    processes = [
        subprocess.Popen(
            [engine_python("mxnet"), "-m", "frameworks.original.horovod", "program.py", "--word"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(shipped_folder("frameworks").parent),
                "DLPERF_RANK": str(rank),
                "DLPERF_LOCAL_RANK": str(rank),
                "DLPERF_WORLD_SIZE": "2",
                "DLPERF_LOCAL_WORLD_SIZE": "2",
                "DLPERF_MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    output = [process.communicate()[0] for process in processes]
    assert [f"__main__ ['program.py', '--word'] {rank} 2 3.0 beside\n" for rank in range(2)] == output


@pytest.fixture
def insightface() -> Path:
    return checkout("DLPERF_UPSTREAM_INSIGHTFACE", url=ADAPTER.source.url, commit=ADAPTER.source.commits[0])


@pytest.mark.parametrize("commit", ADAPTER.source.commits)
@pytest.mark.parametrize("parallelism", ["data", "model", "partial_fc"])
def test_the_edits_fit_the_known_commits(insightface: Path, commit: str, parallelism: str) -> None:
    program = _program(_case(parallelism=parallelism, devices=2))
    for edit in program.edits:
        git = ["git", "-C", insightface, "show", f"{commit}:{edit.file}"]
        text = subprocess.check_output(git, text=True)
        assert 1 == text.count(edit.before)


@pytest.mark.parametrize("commit", ADAPTER.source.commits)
def test_the_known_commits_have_what_is_written_beside(insightface: Path, commit: str) -> None:
    git = ["git", "-C", insightface, "ls-tree", "-r", "--name-only", commit, *ADAPTER.source.folders]
    names = subprocess.check_output(git, text=True).split("\n")
    assert {"recognition/ArcFace/sample_config.py", f"{MEMORY}/default.py"} <= set(names)
    assert "recognition/ArcFace/config.py" not in names
    for process in _program(_case(parallelism="partial_fc")).processes:
        assert f"{process.folder}/train_memory.py" in names
