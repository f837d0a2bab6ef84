"""Cases, launches and working folders for the tests of adapters that run original programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlperf.adapters.base import Launch, Program, RankPlacement
from dlperf.plan.case import Case, DataSet, Loss, Measure, Topology, Workload
from frameworks.original.workspace import Edit, make

if TYPE_CHECKING:
    from dlperf.adapters.base import Adapter

FACES = DataSet(
    path="/data/faces", forms=("recordio", "ofrecord"), images=5000, classes=50, index_sha256="0" * 64
)
# Neither Python nor a shell may read it as anything but a path.
STRANGE_PATH = "/data/it's \"here\"\n'''{0}%s\\"


def workload(**changes: Any) -> Workload:
    content = {
        "experiment": "r50",
        "network": "iresnet50",
        "head": "FC",
        "embedding_size": 512,
        "dataset": "emore",
        "loss": Loss(kind="arcface", m2=0.5),
    }
    return Workload.model_validate({**content, **changes})


def case_of(adapter: Adapter, *, devices: int = 1, **changes: Any) -> Case:
    sampled = changes.get("parallelism") == "partial_fc"
    content = {
        "framework": adapter.name,
        "version": adapter.versions[0],
        "workload": workload(),
        "parallelism": "model",
        "sample_ratio": 0.1 if sampled else None,
        "topology": Topology(nodes=1, devices_per_node=devices),
        "device": "cpu",
        "batch_size_per_device": 8,
        "num_classes": 50,
        "threads_per_device": 2,
        "measure": Measure(),
        "data": FACES,
    }
    return Case.model_validate({**content, **changes})


def launch_of(case: Case) -> Launch:
    placements = tuple(
        RankPlacement(
            rank=rank,
            local_rank=rank,
            node_rank=0,
            cpus=(rank,),
            master_address="127.0.0.1",
            master_port=1234,
        )
        for rank in range(case.topology.world_size)
    )
    return Launch(
        case=case,
        case_file=Path("/run/case.json"),
        code=Path("/code"),
        python=Path("/environment/bin/python"),
        placements=placements,
    )


def program_of(adapter: Adapter, case: Case) -> Program:
    (command,) = adapter.rank_commands(launch_of(case))
    assert command.devices == case.topology.world_size
    assert command.program is not None
    return command.program


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
        [sys.executable, "-c", shown],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)
