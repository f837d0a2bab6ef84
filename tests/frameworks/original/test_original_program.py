"""frameworks/original: the copy of a source, the lines of a program, its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import until

from dlperf.adapters.base import Program, ProgramProcess, RankPlacement
from dlperf.importing.dialects import load_dialects
from dlperf.importing.dialects.base import Scope
from dlperf.running.program import program_file
from frameworks.original.lines import Dialect, Record, Series
from frameworks.original.processes import Processes, ProcessSpec
from frameworks.original.workspace import Edit, Unfit, make
from frameworks.process_tree import tree

SPEED = b"INFO:root:Epoch[%d] Batch [%d]\tSpeed: %.2f samples/sec\tacc=0.5\tlossvalue=%.1f\n"
STEP = b"Training: 2026-01-01 00:00:00-Speed %.2f samples/sec   Loss 1.5   LearningRate 0.1   Epoch: 0   "
STEP += b"Global Step: %d   Required: 1 hours\n"


def content_of(dialect: str, **keys: Any) -> dict[str, Any]:
    """program.json of a program without processes of its own."""
    processes = (ProgramProcess(argv=("true",), env={}),)
    program = Program(
        processes=processes, dialect=dialect, iterations_per_line=20, distribution="numpy", **keys
    )
    place = RankPlacement(
        rank=0, local_rank=0, node_rank=0, cpus=(0,), master_address="127.0.0.1", master_port=1
    )
    file = program_file(program, source=Path("/source"), work=Path("/work"), placements=[place])
    return json.loads(file.model_dump_json())


def series(dialect: str, processes: int = 1) -> Series:
    return Series(Dialect(content_of(dialect)["dialect"]), processes)


@pytest.mark.parametrize("name", load_dialects())
def test_every_dialect_reads_on_the_node_as_here(name: str) -> None:
    """With the oldest Python that an engine needs, the patterns compile there too: see the next test."""
    content = content_of(name)["dialect"]
    assert (load_dialects()[name].scope is Scope.PROCESS) == Dialect(content).per_process
    Dialect(content)


def test_the_patterns_compile_with_the_oldest_python(oldest_python: str) -> None:
    patterns = [
        text
        for name in load_dialects()
        for text in (content_of(name)["dialect"]["patterns"] + [content_of(name)["dialect"]["loss_line"]])
        if text is not None
    ]
    program = "import json, re, sys; [re.compile(text.encode('latin-1')) for text in json.load(sys.stdin)]"
    subprocess.run([oldest_python, "-c", program], input=json.dumps(patterns), text=True, check=True)


@pytest.fixture
def oldest_python() -> str:
    found = Path.home() / ".pyenv" / "versions"
    pythons = sorted(found.glob("3.8.*/bin/python")) if found.is_dir() else []
    if not pythons:
        pytest.skip("no Python 3.8 here")
    return str(pythons[-1])


def test_a_process_s_line_is_the_job_s_when_there_is_one(tmp_path: Path) -> None:
    del tmp_path
    read = series("insightface_mxnet")
    assert [] == read.take(0, b"INFO:root:loading\n")
    assert [Record(100.0, 2.5)] == read.take(0, SPEED % (0, 20, 100, 2.5))
    assert [] == read.take(0, SPEED % (0, 20, 100, 2.5))  # repeated once a metric
    assert [Record(120.0, 2.5)] == read.take(0, SPEED % (1, 20, 120, 2.5))


def test_of_several_processes_the_rates_are_summed_line_by_line() -> None:
    read = series("insightface_mxnet", 2)
    assert [] == read.take(0, SPEED % (0, 20, 100, 2.5))
    assert [] == read.take(0, SPEED % (0, 40, 110, 2.4))
    assert [Record(190.0, 2.5)] == read.take(1, SPEED % (0, 20, 90, 3.5))
    assert [Record(200.0, 2.4)] == read.take(1, SPEED % (0, 40, 90, 3.5))


def test_a_line_of_the_whole_job_counts_once_whoever_prints_it() -> None:
    read = series("arcface_torch")
    assert [Record(100.0, 1.5)] == read.take(0, STEP % (100, 20))
    assert [] == read.take(0, STEP % (101, 20))  # of another rank of the launcher
    assert [Record(102.0, 1.5)] == read.take(0, STEP % (102, 40))
    two = series("arcface_torch", 2)
    assert [Record(100.0, 1.5)] == two.take(1, STEP % (100, 20))
    assert [] == two.take(0, STEP % (101, 40))
    assert [Record(103.0, 1.5)] == two.take(1, STEP % (103, 40))


@pytest.mark.parametrize("speed", [0.0, float("inf"), float("nan")])
def test_a_rate_that_is_none_does_not_count(speed: float) -> None:
    assert [] == series("insightface_mxnet").take(0, SPEED % (0, 20, speed, 2.5))


def test_a_loss_on_a_line_of_its_own_is_that_of_the_next_record() -> None:
    read = series("insightface_mxnet")
    assert [] == read.take(0, b"INFO:root:CELOSS,20,3.25\n")
    line = b"INFO:root:Iter[0] Batch [20]\tSpeed: 50.00 samples/sec\n"
    assert [Record(50.0, 3.25)] == read.take(0, line)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "train.py").write_bytes(b"a = 1\r\nb = 2\n\xff\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def test_the_copy_has_the_edits_and_the_files_and_the_source_has_not(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    work = tmp_path / "work"
    work.mkdir()
    (work / "left").touch()
    edits = [Edit("deep/train.py", "b = 2", "b = 3"), Edit("deep/train.py", "b = 3", "b = 4")]
    diff = make(source, work, edits, {"new/config.py": "c = 5\n", "run.sh": "#!/bin/bash\n"})
    assert (work / "deep" / "train.py").read_bytes() == b"a = 1\r\nb = 4\n\xff\n"
    assert (work / "new" / "config.py").read_text() == "c = 5\n"
    assert os.access(work / "run.sh", os.X_OK)
    assert not (work / "left").exists()
    assert before == {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for line in ("--- a/deep/train.py", "-b = 2", "+b = 4", "--- /dev/null", "+++ b/new/config.py", "+c = 5"):
        assert line in diff
    assert "\n" not in "".join(diff)


@pytest.mark.parametrize(
    ("edit", "files", "expected"),
    [
        (Edit("deep/train.py", "z = 2", ""), {}, "edit 1 does not fit deep/train.py: .* occurs 0 times"),
        (Edit("deep/train.py", "=", ""), {}, "edit 1 does not fit deep/train.py: .* occurs 2 times"),
        (Edit("train.py", "=", ""), {}, "edit 1: the source has no file train.py"),
        (Edit("../source/run.sh", "sh", ""), {}, "'../source/run.sh' is not a path below the working folder"),
        (None, {"../out.py": ""}, "'../out.py' is not a path below the working folder"),
        (None, {"/out.py": ""}, "'/out.py' is not a path below the working folder"),
    ],
)
def test_what_does_not_fit_is_named(
    source: Path, tmp_path: Path, edit: Edit | None, files: dict[str, str], expected: str
) -> None:
    with pytest.raises(Unfit, match=expected):
        make(source, tmp_path / "work", [edit] if edit else [], files)
    assert not (tmp_path / "out.py").exists()


def started(work: Path, *programs: str, cpus: tuple[int, ...] = ()) -> Processes:
    specs = [ProcessSpec([sys.executable, "-u", "-c", text], {}, ".", list(cpus)) for text in programs]
    return Processes(specs, work)


def test_output_comes_line_by_line_and_byte_by_byte(tmp_path: Path) -> None:
    text = r"import os; os.write(1, b'one\ntwo \xff\x00'); os.write(2, b' more\n10%\r20%\rend')"
    processes = started(tmp_path, text)
    assert [line for line in processes.lines() if line is not None] == [
        (0, b"one\n"),
        (0, b"two \xff\x00 more\n"),
        (0, b"10%\r"),
        (0, b"20%\r"),
        (0, b"end\n"),
    ]
    assert processes.failure is None


def test_a_failure_ends_the_reading_although_others_go_on(tmp_path: Path) -> None:
    processes = started(tmp_path, "import time; time.sleep(1000)", "print('last words'); raise SystemExit(7)")
    lines = [line for line in processes.lines() if line is not None]
    assert (1, b"last words\n") in lines
    assert processes.failure == 7
    processes.end(kill=True)
    assert tree() == [os.getpid()]


def test_the_end_asks_first_and_hears_the_last_words(tmp_path: Path) -> None:
    text = "import signal, sys; signal.signal(15, lambda *_: sys.exit('ended')); print('on'); signal.pause()"
    processes = started(tmp_path, text)
    next(line for line in processes.lines() if line is not None)
    assert [(0, b"ended\n")] == processes.end()
    assert tree() == [os.getpid()]


def test_what_ignores_the_request_and_its_children_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frameworks.original.processes.GRACE_SECONDS", 0.1)
    child = "import signal; signal.signal(15, signal.SIG_IGN); print('on', flush=True); signal.pause()"
    text = f"import subprocess, sys, signal; subprocess.Popen([sys.executable, '-c', {child!r}]); {child}"
    processes = started(tmp_path, text)
    count = 0
    for line in processes.lines():
        count += line is not None
        if count == 2:
            break
    processes.end()
    until(lambda: tree() == [os.getpid()])


def test_a_process_that_cannot_be_started_leaves_none(tmp_path: Path) -> None:
    specs = [ProcessSpec(["sleep", "1000"], {}, ".", []), ProcessSpec(["/no/such"], {}, ".", [])]
    with pytest.raises(FileNotFoundError):
        Processes(specs, tmp_path)
    assert tree() == [os.getpid()]
