"""Cases, launches and working folders for the tests of adapters that run original programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import cases

from dlperf.plan.case import Case, DataSet, Workload
from frameworks.original.workspace import Edit, make

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.adapters.base import Adapter, Program

FACES = DataSet(
    path="/data/faces", forms=("recordio", "ofrecord"), images=5000, classes=50, index_sha256="0" * 64
)
# Neither Python nor a shell may read it as anything but a path.
STRANGE_PATH = "/data/it's \"here\"\n'''{0}%s\\"


def workload(**changes: Any) -> Workload:
    return cases.workload(
        **{"experiment": "r50", "network": "iresnet50", "head": "FC", "embedding_size": 512, **changes}
    )


def case_of(adapter: Adapter, **changes: Any) -> Case:
    content = {"workload": workload(), "parallelism": "model", "num_classes": 50, "data": FACES}
    return cases.case_of(adapter, **{**content, **changes})


def program_of(adapter: Adapter, case: Case) -> Program:
    (command,) = adapter.rank_commands(cases.launch_of(case))
    assert command.devices == case.topology.world_size
    assert command.program is not None
    return command.program


def config_of(adapter: Adapter, folder: Path, **changes: Any) -> dict[str, Any]:
    """What the configuration module of a case, where the program has one, holds."""
    (text,) = program_of(adapter, case_of(adapter, **changes)).files.values()
    config = evaluated(text, "written.config", folder)
    assert isinstance(config, dict)
    return config


def edited(adapter: Adapter, **changes: Any) -> list[tuple[str, str, str]]:
    """File in the program's folder, text before and after of each edit for a case."""
    assert adapter.source is not None
    (folder,) = adapter.source.folders
    edits = program_of(adapter, case_of(adapter, **changes)).edits
    assert all(edit.file.startswith(f"{folder}/") for edit in edits)
    return [(edit.file.removeprefix(f"{folder}/"), edit.before, edit.after) for edit in edits]


def work_folder(checkout: Path, program: Program, folder: Path) -> list[str]:
    """Make the working folder as a run does; the lines of the diff."""
    edits = [Edit(edit.file, edit.before, edit.after) for edit in program.edits]
    return make(checkout, folder, edits, program.files)


EASYDICT = """\
class EasyDict(dict):
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__
"""


def evaluated(text: str, expression: str, folder: Path) -> Any:
    """What `expression` is, as JSON, when `text` has run where a module `easydict` can be imported."""
    (folder / "easydict.py").write_text(EASYDICT)
    (folder / "written.py").write_text(text)
    shown = f"import json, written; print(json.dumps({expression}))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", shown],  # byte code of the same second would pass for this text's
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)
