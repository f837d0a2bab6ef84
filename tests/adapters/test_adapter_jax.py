from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cases import case_of, launch_of

from dlperf.adapters.jax import ADAPTER, JAXOptions
from dlperf.files import shipped_root
from dlperf.plan.case import Case, Topology
from dlperf.plan.machine import Gpu
from frameworks.jax import too_old


def case(**changes: object) -> Case:
    return case_of(ADAPTER, **changes)


def gpu(capability: str | None, driver: str | None) -> Gpu:
    return Gpu(name="GPU", capability=capability, driver=driver)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_parallelism_and_precision_is_supported(precision: str, device: str) -> None:
    for parallelism, ratio in (("data", None), ("model", None), ("partial_fc", 0.1)):
        for topology in ("1n1g", "1n4g", "2n8g"):
            changes = {"parallelism": parallelism, "sample_ratio": ratio, "device": device}
            whole = case(**changes, precision=precision, topology=Topology.from_text(topology))
            assert ADAPTER.unsupported(whole) is None


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("0.8.3", "the training programs need JAX 0.9 or newer"),
        ("0.4.38+wheel.0a1b2c3d", "the training programs need JAX 0.9 or newer"),
        ("0.9.0", None),
        ("0.10.2", None),
        ("1.0", None),
    ],
)
def test_a_version_that_lacks_what_the_programs_call_is_refused(version: str, reason: str | None) -> None:
    """By the plan, for wheels and indexes; by the programs too, for an interpreter of the user's own."""
    assert reason == ADAPTER.unsupported(case().model_copy(update={"version": version}))
    assert (reason is None) == (too_old(version) is None)


def test_the_programs_say_on_one_line_that_jax_is_too_old(tmp_path: Path) -> None:
    metadata = tmp_path / "jax-0.8.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: jax\nVersion: 0.8.0\n")
    paths = f"{shipped_root()}:{tmp_path}"
    command = [sys.executable, "-m", "frameworks.jax.train", "case.json"]
    done = subprocess.run(
        command, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert 1 == done.returncode
    assert "JAX 0.8.0 is too old: these programs need 0.9 or newer\n" == done.stderr


@pytest.mark.parametrize("version", ADAPTER.versions)
def test_the_environment_of_the_cpu_has_no_library_of_cuda(version: str) -> None:
    spec = ADAPTER.environment(version, "cpu")

    assert (f"jax=={version}", f"jaxlib=={version}") == spec.requirements[:2]
    assert not [one for one in spec.requirements if "nvidia" in one or "cuda" in one]
    assert (None, None, None) == (spec.cuda, spec.build_check, spec.gpu_check)


@pytest.mark.parametrize(
    ("described", "major"),
    [
        (None, "12"),
        (gpu(None, "580.65.06"), "12"),
        (gpu("9.0", None), "12"),
        (gpu("7.0", "580.65.06"), "12"),  # Volta, which CUDA 13 has left behind
        (gpu("9.0", "575.57.08"), "12"),
        (gpu("7.5", "580.65.06"), "13"),
        (gpu("12.0", "595.10"), "13"),
    ],
)
def test_the_build_for_cuda_follows_the_gpu_and_its_driver(described: Gpu | None, major: str) -> None:
    spec = ADAPTER.environment("0.10.2", "cuda", gpu=described)

    assert f"jax[cuda{major}]==0.10.2" == spec.requirements[0]
    assert spec.cuda is not None
    assert spec.cuda.toolkit.startswith(major)
    assert f"jax_cuda{major}_plugin" in (spec.build_check or "")


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"jax 1\.0 is unknown; known versions: 0\.10\.2, 0\.9\.2"):
        ADAPTER.environment("1.0", "cpu")


def test_on_cuda_memory_is_taken_as_it_is_needed_and_on_cpu_nothing_is_said_of_it() -> None:
    (on_cpu,) = ADAPTER.rank_commands(launch_of(case()))
    whole = case(device="cuda", topology=Topology.from_text("2n2g"))
    on_cuda = ADAPTER.rank_commands(launch_of(whole, interface="ib0"))

    assert ("/environment/bin/python", "-m", "frameworks.jax.train", "/run/case.json") == on_cpu.argv
    own = {name: text for name, text in on_cpu.env.items() if name.startswith(("JAX", "XLA", "NCCL"))}
    assert {"JAX_ENABLE_COMPILATION_CACHE": "false"} == own
    assert ["0", "1", "2", "3"] == [command.env["DLPERF_RANK"] for command in on_cuda]
    for command in on_cuda:
        assert "false" == command.env["XLA_PYTHON_CLIENT_PREALLOCATE"]
        assert "ib0" == command.env["NCCL_SOCKET_IFNAME"]
        assert "0" == command.env["NVIDIA_TF32_OVERRIDE"]


def test_tf32_is_off_unless_asked_for() -> None:
    assert {"tf32": False} == JAXOptions().model_dump()
