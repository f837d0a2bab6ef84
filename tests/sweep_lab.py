"""`dlperf run` as a process of its own, on sweeps of tests/thirdparty's numpy framework. For tests only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from processes import MARK, marked

from dlperf.results.schema import RunResult

THIRD_PARTY = Path(__file__).parent / "thirdparty"

EXPERIMENT = {
    "network": "mobilefacenet",
    "head": "GDC",
    "embedding_size": 128,
    "dataset": "synthetic",
    "num_classes": 10,
    "loss": {"kind": "softmax"},
}


def launch_default(name: str, value: float) -> str:
    """A program for `SweepLab.patch`: another default in launch.json."""
    return (
        "import dlperf.running.launch as launch\n"
        f"launch.LaunchFile.model_fields[{name!r}].default = {value!r}\n"
        "launch.LaunchFile.model_rebuild(force=True)\n"
    )


# Shows that something is ended at once: who waits for the grace period waits longer than a test may take.
ENDLESS_GRACE = launch_default("grace_seconds", 900.0)


@dataclass
class SweepLab:
    """A folder with an experiment and a sweep, and the dlperf processes started in it."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    stack: ExitStack = field(default_factory=ExitStack)
    variables: dict[str, str] = field(default_factory=dict)

    def write(self, *, framework: str = "numpy", options: dict[str, Any] | None = None, **keys: Any) -> None:
        """Write `tiny.yaml`, one case of a framework with one run, and lay `keys` over it.

        `options` are the framework's: how it goes wrong.
        """
        (self.folder / "experiments").mkdir(exist_ok=True)
        (self.folder / "experiments" / "pixels.yaml").write_text(yaml.safe_dump(EXPERIMENT))
        sweep: dict[str, Any] = {
            "experiment": "pixels",
            "frameworks": [{"name": framework, "python": sys.executable}],
            "topology": "1n1g",
            "batch_size_per_device": 2,
            "device": "cpu",
            "threads_per_device": 1,
            "measure": {"warmup_iterations": 1, "measured_iterations": 3, "repeats": 1},
            "options": {framework: options or {}},
        }
        sweep |= keys
        # Tests run side by side: every run of theirs is disturbed, and most are not about that.
        sweep["measure"] = {"max_interference": 1.0, **sweep["measure"]}
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(sweep))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `dlperf run tiny.yaml ARGUMENTS`; its output and errors are pipes unless `options` differ."""
        return self.popen("run", "tiny.yaml", *arguments, **options)

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start any command as `start` does."""
        command = [sys.executable, "-m", "dlperf", *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        settings = {"cwd": self.folder, "env": os.environ | self.environment(), "text": True}
        process = subprocess.Popen(command, **(settings | pipes | options))
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return process

    def patch(self, program: str) -> None:
        """Run a program in dlperf's own process before it starts: bounds are minutes, and tests are not."""
        site = self.folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(program)
        self.variables["PYTHONPATH"] = f"{site}{os.pathsep}{self.environment()['PYTHONPATH']}"

    def environment(self) -> dict[str, str]:
        """What a dlperf of this lab has in its environment beside the usual."""
        return {
            MARK: self.mark,
            "PYTHONPATH": str(THIRD_PARTY),
            "DLPERF_HOST_LOCK": str(self.folder / "host.lock"),
            "DLPERF_CACHE": str(self.folder / "cache"),
            **self.variables,
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        process = self.start(*arguments)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def dlperf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of dlperf in the folder to its end."""
        command = [sys.executable, "-m", "dlperf", *arguments]
        variables = os.environ | self.environment()
        return subprocess.run(  # its exit code is what tests look at
            command, cwd=self.folder, env=variables, text=True, capture_output=True, check=False
        )

    @property
    def results(self) -> Path:
        """The sweep's results folder."""
        return self.folder / "results" / "tiny"

    def run_folders(self) -> list[Path]:
        """Every run folder that exists."""
        return sorted((self.results / "runs").glob("*/r*"))

    def stored(self) -> list[RunResult]:
        """Every stored result, by folder."""
        files = (folder / "result.json" for folder in self.run_folders())
        return [RunResult.model_validate_json(file.read_bytes()) for file in files if file.exists()]

    def outcome(self) -> dict[str, Any]:
        """outcome.json of the only run."""
        (folder,) = self.run_folders()
        content: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
        return content

    def logged(self, text: str) -> bool:
        """Whether the log of any rank holds `text`."""
        logs = (self.results / "runs").glob("*/r*/logs/rank*.log")
        return any(text in log.read_text(errors="replace") for log in logs)

    def left(self) -> set[int]:
        """Processes of this lab that are still alive, dlperf and supervisors included."""
        return marked(self.mark)
