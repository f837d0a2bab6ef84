"""docs/environments.md does what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()


def dlperf(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dlperf", *arguments]
    own = {"DLPERF_CACHE": str(folder / "cache"), "DLPERF_HOST_LOCK": str(folder / "host.lock")}
    environ = os.environ | own
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.engine
def test_every_command_works_in_its_order(tmp_path: Path) -> None:
    commands = re.findall(r"^\$ dlperf (env .*)$", PAGE, flags=re.MULTILINE)
    assert ["create", "list", "path", "doctor", "remove"] == [line.split()[1] for line in commands]
    said = {}
    for line in commands:
        done = dlperf(shlex.split(line), tmp_path)
        assert 0 == done.returncode, f"{line}: {done.stderr}"
        said[line.split()[1]] = done.stdout
    assert said["create"] == said["path"] != ""
    assert "mxnet 1.9.1" in said["list"]
    assert said["doctor"].endswith(": ok\n")
    assert "[]\n" == dlperf(["env", "list", "--json"], tmp_path).stdout


@pytest.mark.slow
def test_a_sweep_can_name_the_users_own_python(tmp_path: Path) -> None:
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL) if "python:" in text]
    sweep = tmp_path / "own.yaml"
    sweep.write_text(
        f"experiment: quickstart\ntopology: 1n1g\nbatch_size_per_device: 2\ndevice: cpu\n{block}"
    )
    planned = dlperf(["plan", str(sweep)], tmp_path)
    assert 0 == planned.returncode, planned.stderr
    assert "mxnet 1.9.1" in planned.stdout
    ran = dlperf(["run", str(sweep)], tmp_path)
    assert 3 == ran.returncode
    assert "/path/to/python is not an executable; give the path of a Python with mxnet" in ran.stderr


def test_a_sweep_can_name_a_wheel_and_an_index_and_is_told_what_is_wrong(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (block,) = [text for text in blocks if "index:" in text]
    sweep = tmp_path / "other.yaml"
    head = "experiment: quickstart\ntopology: 1n1g\nbatch_size_per_device: 2\ndevice: cpu\n"
    sweep.write_text(head + block)
    planned = dlperf(["plan", str(sweep)], tmp_path)
    assert 2 == planned.returncode
    assert "frameworks[0].wheel: there is no file" in planned.stderr
    index = next(line for line in block.splitlines() if "index:" in line)
    sweep.write_text(f"{head}frameworks:\n{index}\n")
    planned = dlperf(["plan", str(sweep)], tmp_path)
    assert 0 == planned.returncode, planned.stderr
    (label,) = set(re.findall(r"2\.14\.0\.dev20261101\+index\.[0-9a-f]{8}", planned.stdout))
    assert label in PAGE
