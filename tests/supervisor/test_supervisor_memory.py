"""A rank's memory budget, enforced by a control group if one can be created, else by RLIMIT_DATA."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import until
from small_memory import small_memory, starve_another
from supervisor_lab import SUPERVISOR, Lab

MIB = 1 << 20
BUDGET = 200 * MIB
FITS = "x = b'x' * (100 << 20); print('fits')"
TOO_MUCH = "print('begins'); x = b'x' * (600 << 20); print('too much')"


@pytest.fixture
def memory_lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    with made.stack:
        yield made
    until(lambda: not made.left(), what="every rank is gone")


def left_groups(pid: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup").rglob(f"dlperf-{pid}-*"))


def test_a_rank_within_its_budget_trains_and_one_beyond_it_does_not(memory_lab: Lab) -> None:
    memory_lab.launch(FITS)
    memory_lab.edit_rank(0, memory_bytes=BUDGET)
    assert memory_lab.run()[0] == 0
    assert b"fits\n" == memory_lab.log()
    assert memory_lab.outcome["memory_held_by"] in {"cgroup", "rlimit_data"}
    memory_lab.launch(TOO_MUCH, lease_seconds=None)
    memory_lab.edit_rank(0, memory_bytes=BUDGET)
    process = memory_lab.start()
    process.communicate()
    assert process.returncode == 1
    assert b"too much" not in memory_lab.log()
    assert 0 == memory_lab.outcome["first_failed_rank"]
    assert [] == left_groups(process.pid)


def test_each_rank_has_a_budget_of_its_own(memory_lab: Lab) -> None:
    memory_lab.launch(FITS, FITS, FITS)
    for rank in range(3):
        memory_lab.edit_rank(rank, memory_bytes=BUDGET)
    assert memory_lab.run()[0] == 0


def test_a_rank_without_a_budget_has_none(memory_lab: Lab) -> None:
    memory_lab.launch(TOO_MUCH)
    assert memory_lab.run()[0] == 0
    assert "memory_held_by" not in memory_lab.outcome


def test_the_kernels_count_shows_which_rank_was_killed(memory_lab: Lab) -> None:
    memory_lab.launch("import time; time.sleep(60)", TOO_MUCH)
    for rank in range(2):
        memory_lab.edit_rank(rank, memory_bytes=BUDGET)
    memory_lab.run()
    if memory_lab.outcome["memory_held_by"] != "cgroup":
        pytest.skip("no control group can be made here (root, cgroup v1 or v2 with the memory controller)")
    assert [0, 1] == [rank["oom_kills"] for rank in memory_lab.outcome["ranks"]]


def test_a_kill_for_memory_elsewhere_is_not_counted_in_the_ranks_group(memory_lab: Lab) -> None:
    memory_lab.launch("import time; print('on'); time.sleep(600)")
    process = memory_lab.start()
    memory_lab.until_log(b"on")
    starve_another()
    (rank,) = memory_lab.left()
    os.kill(rank, signal.SIGKILL)
    process.communicate()
    (end,) = memory_lab.outcome["ranks"]
    assert signal.SIGKILL == end["signal"]
    assert memory_lab.outcome["oom_kills"] > 0
    if "oom_kills" not in end:
        pytest.skip("no control group can be made here without a limit (root and cgroup v1, or v2's root)")
    assert 0 == end["oom_kills"]
    assert [] == left_groups(process.pid)


def test_a_group_that_a_supervisor_of_another_container_uses_is_left_alone(memory_lab: Lab) -> None:
    """Its process id does not exist here, as ours may not exist there."""
    memory_lab.launch("import time; print('on'); time.sleep(600)")
    process = memory_lab.start()
    memory_lab.until_log(b"on")
    made = left_groups(process.pid)
    process.terminate()
    process.communicate()
    if not made:
        pytest.skip("no control group can be made here without a limit (root and cgroup v1, or v2's root)")
    theirs = made[0].with_name(f"dlperf-{2**22 + 1}-1-rank0")  # beyond any process id
    theirs.mkdir()
    try:
        memory_lab.launch("print('done')")
        assert 0 == memory_lab.run()[0]
        assert theirs.is_dir()
    finally:
        theirs.rmdir()


def test_a_killed_supervisor_leaves_no_group(memory_lab: Lab) -> None:
    memory_lab.launch("import time; print('on'); time.sleep(600)")
    memory_lab.edit_rank(0, memory_bytes=BUDGET)
    process = memory_lab.start()
    memory_lab.until_log(b"on")
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), 9)
    process.communicate()
    assert [] == left_groups(process.pid)


@pytest.fixture
def nobodys_lab() -> Iterator[Lab]:
    """A folder in which an unprivileged user can run a supervisor; only root can use pytest's own folders."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user, who can make no control group")
    place = Path("/tmp") / f"dlperf-budget-{os.getpid()}"  # noqa: S108
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    try:
        code = place / "frameworks"
        code.mkdir()
        code.chmod(0o755)
        for module in SUPERVISOR.parent.glob("*.py"):
            shutil.copyfile(module, code / module.name)
            (code / module.name).chmod(0o644)
        lab = Lab(place)
        lab.launch(argv=["/usr/bin/env", "python3", "-c", TOO_MUCH], lease_seconds=None)
        (place / "launch.json").chmod(0o644)
        yield lab
    finally:
        shutil.rmtree(place)


AS_NOBODY = {"user": 65534, "env": {"PATH": "/usr/bin:/bin"}, "stdin": subprocess.DEVNULL}


def supervising() -> list[str]:
    """The command; a Python that everyone may run."""
    return [
        shutil.which("python3", path="/usr/bin:/bin") or sys.executable,
        "-I",
        "frameworks/supervisor.py",
        "launch.json",
    ]


def test_without_a_group_the_process_is_limited(nobodys_lab: Lab) -> None:
    """RLIMIT_DATA refuses the memory, and Python reports it."""
    nobodys_lab.edit_rank(0, memory_bytes=BUDGET)
    subprocess.run(supervising(), cwd=nobodys_lab.folder, capture_output=True, check=False, **AS_NOBODY)
    assert "rlimit_data" == nobodys_lab.outcome["memory_held_by"]
    assert "oom_kills" not in nobodys_lab.outcome["ranks"][0]
    assert b"MemoryError" in nobodys_lab.log()


def test_without_a_group_of_its_own_the_shared_one_counts(nobodys_lab: Lab) -> None:
    """As in a container with a limit: the kernel kills the rank, not the supervisor."""
    with small_memory() as group:
        join = 'echo $$ > "$0" && cd "$1" && shift && exec setpriv --reuid 65534 --clear-groups "$@"'
        words = ["sh", "-c", join, str(group), str(nobodys_lab.folder), *supervising()]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    (end,) = nobodys_lab.outcome["ranks"]
    assert signal.SIGKILL == end["signal"]
    assert "oom_kills" not in end
    assert 1 == nobodys_lab.outcome["group_oom_kills"]
