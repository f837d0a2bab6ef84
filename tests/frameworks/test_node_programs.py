"""`frameworks/node` works on every Python that a node may have."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import until

from frameworks.host_lock import HostLock, Unusable
from frameworks.node import Refused, locks
from frameworks.node.attend import Attendant

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from frameworks.node.__main__ import main; sys.exit(main())"
)
VERSIONS = ("3.8", "3.13")


def interpreters() -> list[Path]:
    found = (sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")) for version in VERSIONS)
    return [Path(sys.executable), *(paths[-1] for paths in found if paths)]


@pytest.mark.parametrize("python", interpreters(), ids=str)
def test_requests_are_answered_in_order_until_the_lease_ends(python: Path, tmp_path: Path) -> None:
    requests = [
        {"op": "hello", "interface": "lo", "variables": {"DLPERF_HOST_LOCK": str(tmp_path / "lock")}},
        {"op": "lock"},
        {"op": "facts"},
        {"op": "port"},
        {"op": "nonsense"},
        {"op": "clean", "everything": False},
    ]
    (tmp_path / "runs" / "left-r1").mkdir(parents=True)
    text = "".join(json.dumps(request) + "\n" for request in requests)
    command = [str(python), "-I", "-B", "-c", PROGRAM, str(ROOT), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(text)
        process.stdin.flush()
        hello, lock, facts, port, nonsense, clean = (json.loads(process.stdout.readline()) for _ in requests)
        process.stdin.write('{"beat": 7}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"beat": 7}
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    assert (str(tmp_path), "127.0.0.1") == (hello["work"], hello["address"])
    assert lock == {"holder": None}
    assert facts["facts"]["cores"] == len(hello["cpus"])
    assert 1024 <= port["port"] < 65536
    assert "nonsense" in nonsense["refused"]
    assert clean == {"killed": [], "removed": []}  # `lock` has removed what a dead harness had left
    assert not (tmp_path / "runs" / "left-r1").exists()


def test_clean_ends_processes_of_its_own_folder_and_container_only(tmp_path: Path) -> None:
    work, other = tmp_path / "work", tmp_path / "work-2"
    requests = [
        {"op": "hello", "interface": None, "variables": {"DLPERF_HOST_LOCK": str(tmp_path / "lock")}},
        {"op": "clean", "everything": False},
    ]
    container = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*container, "true"], capture_output=True, check=False).returncode != 0:
        container = []
    starts = [(work, []), (other, []), *([(work, container)] if container else [])]
    with ExitStack() as stack:
        processes = []
        for folder, prefix in starts:
            (folder / "runs").mkdir(parents=True, exist_ok=True)
            mark = f"DLPERF_RUN={folder}/runs/case-r1"
            process = subprocess.Popen([*prefix, "env", mark, "sleep", "600"])
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        until(lambda: all(_carries_mark(process) for process in processes))
        command = [sys.executable, "-I", "-B", "-c", PROGRAM, str(ROOT), str(work)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attendant:
            assert attendant.stdin is not None
            assert attendant.stdout is not None
            attendant.stdin.writelines(json.dumps(request) + "\n" for request in requests)
            attendant.stdin.flush()
            _, clean = (json.loads(attendant.stdout.readline()) for _ in requests)
            attendant.stdin.close()
        assert clean == {"killed": [processes[0].pid], "removed": []}
        assert processes[0].wait() == -signal.SIGKILL
        assert [process.poll() for process in processes[1:]] == [None] * (len(processes) - 1)


def _carries_mark(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process, or its child in a namespace of its own, is the `sleep` with the mark."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return any(
        Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep") for pid in (process.pid, *children)
    )


@pytest.mark.parametrize("python", interpreters(), ids=str)
def test_a_run_is_taken_supervised_and_sent_back(python: Path, tmp_path: Path) -> None:
    rank = {"rank": 0, "argv": ["echo", "hello"], "env": {}, "cpus": [], "log": "logs/rank0.log"}
    launch = {
        "schema_version": 1,
        "ranks": [rank],
        "inherit": ["PATH"],
        "time_limit_seconds": 60,
        "stall_limit_seconds": None,
        "lease_seconds": None,
        "grace_seconds": 1,
    }
    content = json.dumps({"files": {"launch.json": json.dumps(launch), "case.json": "{}"}, "environment": {}})
    command = [str(python), "-I", "-B", "-c", PROGRAM, str(ROOT), str(tmp_path)]
    ran = subprocess.run(
        [*command, "run", "case-r1", str(len(content))],
        input=content.encode(),
        capture_output=True,
        check=True,
    )
    assert b'"event": "finished"' in ran.stdout
    fetched = subprocess.run(
        [*command, "fetch", "case-r1"], input=b"", capture_output=True, check=True
    ).stdout
    assert b"logs/rank0.log" in fetched
    assert b"hello" in fetched
    assert (tmp_path / "runs" / "case-r1").is_dir()  # nobody has said that it arrived
    subprocess.run([*command, "fetch", "case-r1"], input=b"d", capture_output=True, check=True)
    assert not (tmp_path / "runs" / "case-r1").exists()


def test_a_lock_that_cannot_be_taken_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    monkeypatch.setenv("DLPERF_HOST_LOCK", str(tmp_path / "link"))
    with pytest.raises(Unusable, match=r"link: is a symbolic link; set DLPERF_HOST_LOCK to another file"):
        Attendant(tmp_path)._take_lock()
    assert not (tmp_path / "target").exists()


def test_a_node_on_which_a_supervisor_is_still_at_work_is_not_kept_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLPERF_HOST_LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(locks, "DESERTED_SECONDS", 0.1)
    folder = tmp_path / "runs" / "case-r1"
    folder.mkdir(parents=True)
    (folder / "launch.json").write_text("{}")
    attendant = Attendant(tmp_path)
    with (folder / "launch.json").open() as launch:
        fcntl.flock(launch, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="a supervisor is still at work"):
            attendant._take_lock()
        other = HostLock()
        assert other.take() is None
        other.release()
