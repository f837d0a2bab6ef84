"""`dlperf env`, with a framework that another package brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from environment_lab import HoldingIndex

ADAPTER = """
import sys
from dlperf.adapters.base import EnvironmentSpec
from dlperf.model import Model

class Adapter:
    name = "demo"
    title = "Demo"
    source = None
    inherited_variables = ()
    alignable = False
    versions = ("1.1", "1.0")
    options = Model

    def environment(self, version, device, *, parallel=False, gpu=None):
        if version not in self.versions:
            raise ValueError(f"demo has no version {version!r}; known: {', '.join(self.versions)}")
        return EnvironmentSpec(
            framework="demo",
            version=version,
            pythons=("%d.%d" % sys.version_info[:2],),
            requirements=(f"demo-engine=={version}",),
            import_check="import demo_engine; print(demo_engine.__version__)",
            parallel=parallel,
            notes=device,
        )

    def unsupported(self, case):
        return None

    def rank_commands(self, launch):
        return ()

ADAPTER = Adapter()
"""


@pytest.fixture(autouse=True)
def demo_adapter(wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that brings the framework `demo`."""
    del wheelhouse
    site = tmp_path / "site"
    info = site / "demo_adapter-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "demo_adapter.py").write_text(ADAPTER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-adapter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dlperf.adapters]\ndemo = demo_adapter:ADAPTER\n")
    monkeypatch.setenv("PYTHONPATH", str(site))


def env(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dlperf", "env", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_create_prints_the_interpreter_and_path_finds_it_again() -> None:
    missing = env("path", "demo")
    assert (5, "") == (missing.returncode, missing.stdout)
    assert missing.stderr.endswith(
        "demo==1.1 has no environment here yet; create it: dlperf env create demo==1.1\n"
    )
    missing = env("path", "demo", "--parallel")
    assert missing.stderr.endswith("create it: dlperf env create demo==1.1 --parallel\n")
    created = env("create", "demo")
    assert 0 == created.returncode, created.stderr
    python = created.stdout.strip()
    assert "demo==1.1: ready" in created.stderr
    code = "import demo_engine; print(demo_engine.__version__)"
    assert "1.1\n" == subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert python == env("path", "demo==1.1").stdout.strip()


def test_the_gpu_of_another_machine_can_be_described() -> None:
    """A described GPU means cuda, and decides the build."""
    missing = env("path", "pytorch", "--capability", "9.0", "--driver", "580.65.06")
    command = "dlperf env create pytorch==2.13.0 --capability 9.0 --driver 580.65.06\n"
    assert (5, True) == (missing.returncode, missing.stderr.endswith(command))
    for option, value in (("--capability", "sm_90"), ("--driver", "newest")):
        refused = env("path", "pytorch", option, value)
        assert (2, True) == (refused.returncode, f"{value!r} is not " in refused.stderr)


def test_a_build_that_the_gpu_cannot_run_is_refused_unless_it_is_for_another_machine() -> None:
    refused = env("create", "oneflow==0.9.0", "--capability", "9.0")
    assert 2 == refused.returncode
    assert refused.stderr.endswith(
        "oneflow 0.9.0 has no code for compute capability 9.0 (GPU): its build for CUDA 11.7 has 6.0 to 8.6; "
        "use another framework or GPU; --device cuda creates it all the same\n"
    )


def test_list_doctor_remove() -> None:
    assert "no environments yet" in env("list").stderr
    for name in ("demo", "demo==1.0"):
        assert 0 == env("create", name).returncode
    listed = env("list").stdout.splitlines()
    assert ["demo 1.0", "demo 1.1"] == [line.split("  ")[0] for line in listed[1:]]
    manifests = [entry["manifest"] for entry in json.loads(env("list", "--json").stdout)]
    assert [{"demo-engine": "1.0"}, {"demo-engine": "1.1"}] == [found["packages"] for found in manifests]
    assert [[], []] == list(json.loads(env("doctor", "--json").stdout).values())
    removed = env("remove", "demo==1.0")
    assert f"removed {manifests[0]['key']}\n" == removed.stderr
    assert [manifests[1]["key"]] == [entry["key"] for entry in json.loads(env("list", "--json").stdout)]


def test_doctor_names_what_was_tampered_with() -> None:
    python = Path(env("create", "demo").stdout.strip())
    (module,) = python.parents[1].glob("lib/python3*/site-packages/demo_engine.py")
    module.unlink()
    checked = env("doctor", "demo")
    assert 5 == checked.returncode
    assert "  package demo-engine: file demo_engine.py is missing" in checked.stdout
    assert f"  to recreate it on next use: dlperf env remove {python.parents[1].name}" in checked.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("create", "dmeo"), "unknown framework 'dmeo' (did you mean 'demo'?)"),
        (("create", "demo=="), "'demo==' names no version; write for example demo==1.1"),
        (("create", "demo==3"), "demo has no version '3'; known: 1.1, 1.0"),
        (("remove", "demo"), "no environment is called 'demo'; there are: none"),
        (("doctor", "demo"), "no environment is called 'demo'; there are: none"),
    ],
)
def test_a_wrong_name_is_the_users_mistake(arguments: tuple[str, ...], text: str) -> None:
    refused = env(*arguments)
    assert 2 == refused.returncode
    assert f"dlperf: {text}\n" == refused.stderr


def test_create_builds_on_a_given_python(tmp_path: Path) -> None:
    refused = env("create", "demo", "--python", str(tmp_path / "nowhere"))
    assert 2 == refused.returncode
    assert f"{tmp_path / 'nowhere'} is not an executable" in refused.stderr
    assert 0 == env("create", "demo", "--python", sys.executable).returncode


def test_an_interrupt_ends_it_and_leaves_nothing(holding_index: HoldingIndex, cache: Path) -> None:
    command = [sys.executable, "-m", "dlperf", "env", "create", "demo"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert holding_index.asked.wait(60)
        os.kill(process.pid, 2)
        process.communicate(timeout=60)
    assert 130 == process.returncode
    assert [".locks"] == [path.name for path in cache.iterdir()]
