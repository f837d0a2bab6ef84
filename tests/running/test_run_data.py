"""`dlperf run` on a data set that breaks while it is read: the run ends as `data`, and the sweep goes on."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from processes import until

from dlperf.adapters.registry import load_adapters
from dlperf.data.make import make
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sweep_lab import SweepLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def test_a_file_cut_in_the_middle_of_a_run_ends_it_and_the_sweep_goes_on(
    lab: SweepLab, engine_python: Callable[[str], Path]
) -> None:
    """That each engine's program ends so: tests/frameworks/test_engine_data.py."""
    make(lab.folder / "faces", images=100, classes=10, seed=1, parts=2, quality=90)
    version = load_adapters()["pytorch"].versions[0]
    lab.write(
        frameworks=[{"name": "pytorch", "version": version, "python": str(engine_python("pytorch"))}],
        data=[{"path": "faces"}, "synthetic"],
        # Too few to be judged steady or not, on a machine that has other work; enough to come to the cut.
        measure={"warmup_iterations": 1, "measured_iterations": 59, "repeats": 1},
        order="sequential",
        options={},
    )
    process = lab.start()
    until(lambda: lab.logged('"kind": "train"') or process.poll() is not None, limit=300)

    path = lab.folder / "faces" / "train.rec"
    os.truncate(path, path.stat().st_size // 2)

    _, errors = process.communicate(timeout=500)
    assert 3 == process.returncode, errors
    by_data = {result.case.data is not None: result for result in lab.stored()}
    broken, synthetic = by_data[True], by_data[False]
    assert Status.OK is synthetic.status
    assert Status.DATA is broken.status
    assert (broken.reason or "").startswith(f"{path}: record ")
    assert f"the file ends at byte {path.stat().st_size}, within the record" in (broken.reason or "")
    assert not lab.left()


def test_a_run_on_a_data_set_keeps_what_it_read_and_waited_for(
    lab: SweepLab, engine_python: Callable[[str], Path]
) -> None:
    make(lab.folder / "faces", images=100, classes=10, seed=1, parts=2, quality=90)
    version = load_adapters()["pytorch"].versions[0]
    lab.write(
        frameworks=[{"name": "pytorch", "version": version, "python": str(engine_python("pytorch"))}],
        data=[{"path": "faces", "read": read} for read in ("warm", "cold", "memory")],
        measure={"warmup_iterations": 1, "measured_iterations": 10, "repeats": 1},
        options={},
    )

    done = lab.run()

    assert 0 == done.returncode, done.stderr
    results = lab.stored()
    assert {"warm", "cold", "memory"} == {result.case.data.read for result in results if result.case.data}
    for result in results:
        assert result.reading is not None, json.dumps(result.model_dump(mode="json"))
        assert 1 == result.engine.facts["reader_threads"]
