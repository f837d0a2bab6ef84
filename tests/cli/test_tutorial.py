"""docs/tutorial.md: its sweep is planned as shown, and its commands work in order, in an empty folder.

The commands run with two "versions" of the numpy framework in place of MXNet and PyTorch.
The shown output is compared by the labels of its lines; what is measured differs from machine to machine.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
VERSION = np.__version__
STAND_INS = {
    "[mxnet==1.9.1, pytorch==2.13.0]": (
        f"[{{name: numpy, version: {VERSION}+same, python: {sys.executable}}},"
        f" {{name: numpy, version: {VERSION}, python: {sys.executable}}}]"
    ),
    "repeats: 5}": "repeats: 5, max_interference: 1}",  # beside other tests
    "=mxnet==1.9.1": f"=numpy=={VERSION}+same",
    "=pytorch==2.13.0": f"=numpy=={VERSION}",
    " pytorch ": f" numpy-{VERSION}_ ",
}


def with_stand_ins(text: str) -> str:
    for name, other in STAND_INS.items():
        text = text.replace(name, other)
    return text


def label(line: str) -> str:
    """The first cell of a line of output, without names of frameworks, hashes and numbers."""
    cell = re.split(r"  +", line.strip())[0]
    cell = re.sub(r"\b(mxnet|pytorch|numpy)[- ][\w.+]+?(?=_| |$)", "FRAMEWORK", cell)
    cell = re.sub(r"-[0-9a-f]{12}\b", "-HASH", cell)
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r", no NVIDIA GPU|, \d+ NVIDIA GPUs?.*", "", cell))


@pytest.mark.slow
def test_the_commands_of_the_tutorial_print_what_it_shows(tmp_path: Path) -> None:
    (sweep,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(with_stand_ins(sweep))
    variables = os.environ | {
        "PYTHONPATH": str(ROOT / "tests" / "thirdparty"),
        "DLPERF_HOST_LOCK": str(tmp_path / "host.lock"),
        "DLPERF_CACHE": str(tmp_path / "cache"),
    }
    sessions = re.findall(r"```console\n\$ dlperf (.*?)\n(.*?)```", PAGE, re.DOTALL)
    assert ["plan", "run", "results", "show", "explain", "report", "report", "compare"] == [
        command.split()[0] for command, _ in sessions
    ]
    for command, shown in sessions:
        done = subprocess.run(
            [sys.executable, "-m", "dlperf", *shlex.split(with_stand_ins(command))],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        # The stand-ins are equally fast; so few runs may not tell, or blame one that had less of the machine.
        blamed = "1 regression" in done.stdout
        allowed = ({1} if blamed else {0, 4}) if command.startswith("compare") else {0}
        assert done.returncode in allowed, f"dlperf {command}: {done.stderr}"
        printed = {label(line) for line in (done.stdout + done.stderr).splitlines()}
        assert set() == {label(line) for line in shown.splitlines()} - printed - {"..."}, command
    assert (tmp_path / "report_files").is_dir()
