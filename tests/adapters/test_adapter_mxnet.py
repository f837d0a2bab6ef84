"""The MXNet adapter: environments, refusals, commands."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cases import case_of, launch_of
from pydantic import ValidationError

from dlperf.adapters.mxnet import ADAPTER
from dlperf.files import shipped_folder
from dlperf.plan.case import Case, Topology


def _case(**changes: Any) -> Case:
    return case_of(ADAPTER, **changes)


def test_every_version_has_an_environment_of_exact_pins() -> None:
    assert ("1.9.1", "1.9.0", "1.8.0.post0") == ADAPTER.versions
    for version in ADAPTER.versions:
        spec = ADAPTER.environment(version, "cpu")
        assert f"mxnet=={version}" == spec.requirements[0]
        assert "numpy==1.23.5" in spec.requirements
        assert all("==" in requirement for requirement in spec.requirements)
        assert "3.12" not in spec.pythons


def test_several_devices_get_horovod_compiled_against_mxnet() -> None:
    spec = ADAPTER.environment("1.9.1", "cpu", parallel=True)
    (build,) = spec.builds
    assert "horovod==0.28.1" == build.requirement
    assert {"HOROVOD_WITH_MXNET": "1", "HOROVOD_WITH_GLOO": "1"}.items() <= build.settings.items()
    assert ["horovod/common/gloo/gloo_context.cc"] == [edit.file for edit in build.edits]
    assert {"g++", "make"} == set(build.programs)
    assert "import horovod.mxnet" in spec.import_check
    assert all("==" in requirement for requirement in (*spec.requirements, *build.tools))
    alone = ADAPTER.environment("1.9.1", "cpu")
    assert () == alone.builds
    assert set(alone.requirements) < set(spec.requirements)


def test_on_cuda_horovod_is_compiled_with_nccl() -> None:
    (build,) = ADAPTER.environment("1.9.1", "cuda", parallel=True).builds
    assert "NCCL" == build.settings["HOROVOD_GPU_OPERATIONS"]
    assert "{site_packages}/nvidia/cudnn/lib" in build.settings["LD_LIBRARY_PATH"].split(":")
    assert ("11", "HOROVOD_CUDA_HOME") == (build.nvcc and (build.nvcc.cuda, build.nvcc.home))


def test_on_cuda_horovod_takes_the_nccl_that_mxnet_loads() -> None:
    """A system's nccl.h may be of another version; the wheel has no name that a linker looks for."""
    spec = ADAPTER.environment("1.9.1", "cuda", parallel=True)
    (build,) = spec.builds
    nccl = "{site_packages}/nvidia/nccl"
    expected = {
        "HOROVOD_NCCL_HOME": nccl,
        "HOROVOD_NCCL_INCLUDE": f"{nccl}/include",
        "HOROVOD_NCCL_LIB": f"{nccl}/lib",
    }
    assert expected == {
        name: value
        for name, value in build.settings.items()
        if name.startswith("HOROVOD_NCCL_") and name != "HOROVOD_NCCL_LINK"
    }
    assert {f"{nccl}/lib/libnccl.so": "libnccl.so.2"} == build.links
    assert spec.gpu_check is not None
    assert "horovod.mxnet.nccl_built()" in spec.gpu_check
    alone = ADAPTER.environment("1.9.1", "cuda").gpu_check
    assert alone is not None
    assert ("mxnet.gpu()" in alone, "horovod" in alone) == (True, False)


def put_library(path: Path, *, needs: tuple[str, ...]) -> None:
    """A shared library that needs others, which are nowhere when it is loaded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        others = [Path(folder, name) for name in needs]
        for other in others:
            compile_library(other, f"-Wl,-soname,{other.name}")
        compile_library(path, "-Wl,--no-as-needed", *map(str, others))


def compile_library(path: Path, *options: str) -> None:
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "/dev/null", "-o", str(path), "-x", "none", *options]
    subprocess.run(command, check=True)


def run_cuda_check(site: Path, *, parallel: bool = False) -> str:
    """What the check for CUDA says of the packages in `site`, where no driver needs to be."""
    (site / "mxnet_cu112-1.9.1.dist-info").mkdir(exist_ok=True)
    metadata = "Metadata-Version: 2.1\nName: mxnet-cu112\nVersion: 1.9.1\n"
    (site / "mxnet_cu112-1.9.1.dist-info" / "METADATA").write_text(metadata)
    for package in ("mxnet", "horovod"):
        (site / package).mkdir(exist_ok=True)
        (site / package / "__init__.py").write_text("raise ImportError('no libcuda.so.1')\n")
    check = ADAPTER.environment("1.9.1", "cuda", parallel=parallel).import_check
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False, env=environment
    )
    return (done.stdout or done.stderr).strip()


def test_without_a_driver_only_the_drivers_library_may_be_missing(tmp_path: Path) -> None:
    library = tmp_path / "mxnet" / "libmxnet.so"
    put_library(library, needs=("libcuda.so.1",))
    assert "1.9.1" == run_cuda_check(tmp_path)
    put_library(library, needs=("libcuda.so.1", "libcudnn_of_a_test.so.8"))
    expected = f"{library} needs libcudnn_of_a_test.so.8, which this environment lacks"
    assert expected == run_cuda_check(tmp_path)


def test_horovod_must_link_nccl(tmp_path: Path) -> None:
    put_library(tmp_path / "mxnet" / "libmxnet.so", needs=("libcuda.so.1",))
    library = tmp_path / "horovod" / "mxnet" / "mpi_lib.cpython-310-x86_64-linux-gnu.so"
    put_library(library, needs=("libcuda.so.1", "libmxnet.so"))  # which has no run path to MXNet
    assert "Horovod was built without NCCL" == run_cuda_check(tmp_path, parallel=True)
    put_library(library, needs=("libnccl.so.2",))
    assert f"{library} needs libnccl.so.2, which this environment lacks" == run_cuda_check(
        tmp_path, parallel=True
    )


@pytest.mark.parametrize("version", ADAPTER.versions)
def test_cuda_takes_the_cuda_wheel_and_the_libraries_that_it_links(version: str) -> None:
    spec = ADAPTER.environment(version, "cuda")
    assert f"mxnet-cu112=={version}" == spec.requirements[0]
    names = {requirement.partition("==")[0] for requirement in spec.requirements}
    assert {"nvidia-cudnn-cu11", "nvidia-nccl-cu11", "nvidia-cublas-cu11", "nvidia-cuda-nvrtc-cu11"} < names


@pytest.mark.parametrize("parallel", [False, True], ids=["one device", "several"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_import_check_is_python_that_tells_a_missing_framework(device: str, *, parallel: bool) -> None:
    check = ADAPTER.environment("1.9.1", device, parallel=parallel).import_check
    command = [sys.executable, "-c", check]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 != done.returncode
    assert "No module named 'mxnet'" in done.stderr


@pytest.mark.parametrize(
    ("version", "device", "message"),
    [
        ("2.0", "cpu", "mxnet 2.0 is unknown; known versions: 1.9.1, 1.9.0, 1.8.0.post0"),
        (
            "1.6.0",
            "cpu",
            (
                "mxnet 1.6.0 needs Python 3.7 and the training programs need 3.8; "
                "known versions: 1.9.1, 1.9.0, 1.8.0.post0"
            ),
        ),
        ("2.0.0b1", "cuda", "mxnet 2.0.0b1 is unknown; known versions: 1.9.1, 1.9.0, 1.8.0.post0"),
    ],
)
def test_a_version_that_cannot_run_is_refused_with_the_known_ones(
    version: str, device: str, message: str
) -> None:
    with pytest.raises(ValueError, match="known versions") as caught:
        ADAPTER.environment(version, device)
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"device": "cuda"}, None),
        ({"precision": "fp16"}, "MXNet trains fp32 alone on CPU: FP16 gemm on cpu not implemented!"),
        (
            {"precision": "bf16"},
            "MXNet trains fp32 alone on CPU: could not create a primitive descriptor iterator",
        ),
        ({"precision": "fp16", "device": "cuda"}, None),
        (
            {"precision": "bf16", "device": "cuda"},
            "MXNet 1.x has no bfloat16 kernels for CUDA, only oneDNN's for the CPU",
        ),
        ({"parallelism": "model", "topology": Topology(nodes=2, devices_per_node=2)}, None),
        ({"parallelism": "partial_fc", "sample_ratio": 0.1}, None),
        ({"options": {"processes": "one"}, "topology": Topology(nodes=1, devices_per_node=2)}, None),
        (
            {"options": {"processes": "one"}, "topology": Topology(nodes=2, devices_per_node=2)},
            "one process drives the devices of one node alone; leave out the option processes: one",
        ),
    ],
)
def test_what_cannot_run_is_known_before(changes: dict[str, object], reason: str | None) -> None:
    assert reason == ADAPTER.unsupported(_case(**changes))


def test_a_rank_is_the_training_program_with_its_threads() -> None:
    (command,) = ADAPTER.rank_commands(launch_of(_case()))
    expected = ("/environment/bin/python", "-m", "frameworks.mxnet.train", "/run/case.json")
    assert expected == command.argv
    assert "2" == command.env["OMP_NUM_THREADS"]
    assert "1" == command.env["MXNET_CPU_WORKER_NTHREADS"]
    assert "LD_LIBRARY_PATH" not in command.env


def test_a_process_drives_one_device_or_all_of_them() -> None:
    topology = Topology(nodes=1, devices_per_node=2)
    commands = ADAPTER.rank_commands(launch_of(_case(topology=topology)))
    assert [1, 1] == [command.devices for command in commands]
    assert ["0", "1"] == [command.env["DLPERF_RANK"] for command in commands]
    (one,) = ADAPTER.rank_commands(launch_of(_case(topology=topology, options={"processes": "one"})))
    assert (2, "2", "0") == (one.devices, one.env["DLPERF_DEVICES"], one.env["DLPERF_RANK"])


def test_a_cuda_rank_finds_the_libraries_of_its_environment() -> None:
    (command,) = ADAPTER.rank_commands(launch_of(_case(device="cuda")))
    assert "LD_LIBRARY_PATH" not in command.env  # the user's own is not lost
    folders = command.paths["LD_LIBRARY_PATH"].split(":")
    assert "/environment/lib/python3.10/site-packages/nvidia/cudnn/lib" in folders


_TWO = Topology(nodes=1, devices_per_node=2)
_MXNET_TUNING = {
    "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD": "999",
    "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD": "25",
    "MXNET_OPTIMIZER_AGGREGATION_SIZE": "54",
    "MXNET_GPU_COPY_NTHREADS": "1",
}
_HOROVOD_TUNING = {
    "HOROVOD_CYCLE_TIME": "0.1",
    "HOROVOD_FUSION_THRESHOLD": str(64 * 2**20),
    "HOROVOD_NUM_NCCL_STREAMS": "2",
}


@pytest.mark.parametrize(
    ("changes", "defaults"),
    [
        ({}, {}),
        ({"device": "cuda"}, _MXNET_TUNING),
        ({"device": "cuda", "topology": _TWO}, {**_MXNET_TUNING, **_HOROVOD_TUNING}),
        ({"device": "cuda", "topology": _TWO, "options": {"processes": "one"}}, _MXNET_TUNING),
        ({"device": "cuda", "topology": _TWO, "options": {"tuning": "none"}}, {}),
        ({"options": {"tuning": "upstream"}}, _MXNET_TUNING),
    ],
)
def test_upstreams_tuning_is_the_default_on_cuda_and_the_users_own_wins(
    changes: dict[str, object], defaults: dict[str, str]
) -> None:
    for command in ADAPTER.rank_commands(launch_of(_case(**changes))):
        assert defaults == command.defaults
        assert not defaults.keys() & command.env.keys()


def test_the_training_program_reports_the_tuning_in_force() -> None:
    """Its list, which is the program's own, has every variable that the adapter sets."""
    source = shipped_folder("frameworks") / "mxnet" / "settings.py"
    assigned = next(
        node.value
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TUNING_VARIABLES"
    )
    assert sorted({**_MXNET_TUNING, **_HOROVOD_TUNING}) == list(ast.literal_eval(assigned))


def test_options_are_closed() -> None:
    for form in ("convolution", "broadcast", "native"):
        assert form == ADAPTER.options.model_validate({"prelu": form}).prelu
    with pytest.raises(ValidationError):
        ADAPTER.options.model_validate({"prelu": "operator"})
    with pytest.raises(ValidationError):
        ADAPTER.options.model_validate({"prelue": "broadcast"})
    assert {"loss_scale": 128.0} == ADAPTER.options.model_validate({"loss_scale": 128}).model_dump(
        exclude_none=True
    )
    with pytest.raises(ValidationError):
        ADAPTER.options.model_validate({"loss_scale": 0})
