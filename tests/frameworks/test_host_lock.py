"""One dlperf per machine: for several users and containers, and whatever other users put in its way."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "frameworks" / "host_lock.py"
BOB, EVE = 12345, 54321  # users that need no entry in /etc/passwd
SYSCTLS = Path("/proc/sys/fs")
# In the folder of a box, which is the test's own.
NAMED, TRAPPED = "/tmp/named.lock", "/tmp/eve/x.lock"  # noqa: S108
# A copy there: the checkout may lie in a folder that the box hides, or that only root can enter.
COPY = "/tmp/host_lock.py"  # noqa: S108


def python_for_all() -> str | None:
    """A Python that users without access to /root can start."""
    found = (shutil.which("python3", path=folder) for folder in ("/usr/bin", "/usr/local/bin"))
    return next((path for path in found if path and not os.path.realpath(path).startswith("/root")), None)


def has_namespaces() -> bool:
    if os.geteuid() or not all(map(shutil.which, ("unshare", "nsenter", "setpriv"))):
        return False
    made = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    return made.returncode == 0


@dataclass
class Box:
    """A machine of the test's own: a /tmp and a network that no other process has."""

    pid: int
    stack: ExitStack

    def words(self, *command: str, user: int = 0, own_network: bool = False) -> list[str]:
        network = ["unshare", "--net"] if own_network else []
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        entered = ["nsenter", f"--target={self.pid}", "--mount", "--net"]
        return [*entered, *network, *who, *command]

    def run(self, text: str, *, user: int = 0) -> str:
        """The output of a shell command."""
        command = self.words("sh", "-c", f"umask 0; cd /tmp; {text}", user=user)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def keeper(
        self, *arguments: str, user: int = 0, own_network: bool = False, given: str | None = None
    ) -> Keeper:
        """A process that takes the lock."""
        named = [f"DLPERF_HOST_LOCK={given}"] if given else []
        command = ["env", *named, str(python_for_all()), "-I", COPY, *arguments]
        words = self.words(*command, user=user, own_network=own_network)
        environment = {name: value for name, value in os.environ.items() if name != "DLPERF_HOST_LOCK"}
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, umask=0
        )
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return Keeper(process)


@dataclass
class Keeper:
    process: subprocess.Popen[str]

    def says(self) -> dict[str, object]:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def release(self) -> None:
        """End its standard input, as the end of dlperf does."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture
def box() -> Iterator[Box]:
    if not has_namespaces() or python_for_all() is None:
        pytest.skip("needs root, namespaces, and a Python that every user can start")
    with ExitStack() as stack:
        make = f"mount -t tmpfs tmpfs /tmp && chmod 1777 /tmp && cat > {COPY} && chmod 644 {COPY}"
        command = ["unshare", "--mount", "--net", "sh", "-c", f"{make} && echo ready && exec sleep 600"]
        program = stack.enter_context(PROGRAM.open("rb"))
        holder = stack.enter_context(
            subprocess.Popen(command, stdin=program, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield Box(holder.pid, stack)


@pytest.fixture
def protection(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kernel's protection of links and files in sticky folders, as the parameter says."""
    names = ("protected_symlinks", "protected_regular")
    with PROGRAM.open("rb") as own:
        fcntl.flock(own, fcntl.LOCK_EX)  # the settings are those of the machine; one test at a time
        before = {name: (SYSCTLS / name).read_text() for name in names}
        try:
            for name, value in zip(names, map(str, request.param), strict=True):
                if before[name].strip() != value:
                    (SYSCTLS / name).write_text(value)
            yield
        except OSError as error:
            pytest.skip(f"{error.filename} cannot be set here: {error.strerror}")
        finally:
            for name, value in before.items():
                if (SYSCTLS / name).read_text() != value:
                    (SYSCTLS / name).write_text(value)


# Each value of each setting, none and all among them.
EVERY_PROTECTION = pytest.mark.parametrize(
    "protection", [(0, 0), (0, 1), (1, 1), (1, 2)], indirect=True, ids=str
)


@pytest.mark.slow
@EVERY_PROTECTION
@pytest.mark.parametrize("own_network", [False, True])
@pytest.mark.parametrize(("first", "second"), [(0, BOB), (BOB, 0), (BOB, EVE)])
@pytest.mark.usefixtures("protection")
def test_users_exclude_each_other_and_none_is_refused(
    box: Box,
    first: int,
    second: int,
    own_network: bool,  # noqa: FBT001
) -> None:
    """In one network by the socket, in two, as of two containers, by the files."""
    holder = box.keeper(user=first)
    assert {"held": True} == holder.says()
    assert {"holder"} == box.keeper(user=second, own_network=own_network).says().keys()
    waiting = box.keeper("--wait", user=second, own_network=own_network)
    assert {"holder"} == waiting.says().keys()
    holder.release()
    assert {"held": True} == waiting.says()
    assert {"holder"} == box.keeper(user=first, own_network=own_network).says().keys()


@pytest.mark.slow
@EVERY_PROTECTION
@pytest.mark.usefixtures("protection")
def test_one_file_named_for_all_serves_two_users(box: Box) -> None:
    holder = box.keeper(user=BOB, given=NAMED)
    assert {"held": True} == holder.says()
    assert {"holder"} == box.keeper(given=NAMED, own_network=True).says().keys()
    holder.release()
    assert {"held": True} == box.keeper(given=NAMED, own_network=True).says()


def test_a_holder_is_named_with_its_user_and_since_when(box: Box) -> None:
    holder = box.keeper()
    holder.says()
    dlperf = os.getpid()  # which started the program that holds the lock
    for own_network in (False, True):
        said = str(box.keeper(user=BOB, own_network=own_network).says()["holder"])
        assert said.startswith(f"process {dlperf} of root, since 20")
    same_user = str(box.keeper().says()["holder"])
    assert same_user.startswith(f"process {dlperf} of root in {Path.cwd()}, since 20")


def test_containers_of_one_network_exclude_each_other_without_a_common_folder(box: Box) -> None:
    hide = f'exec 3< {COPY}; mount -t tmpfs tmpfs /tmp && cat <&3 > {COPY} && exec "$@"'
    own_tmp = ["unshare", "--mount", "sh", "-c", hide, "sh"]
    with subprocess.Popen(
        box.words(*own_tmp, str(python_for_all()), "-I", COPY),
        env={name: value for name, value in os.environ.items() if name != "DLPERF_HOST_LOCK"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        holder = Keeper(process)
        assert {"held": True} == holder.says()
        assert {"holder"} == box.keeper(user=BOB).says().keys()
        holder.release()
    assert {"held": True} == box.keeper(user=BOB).says()


def test_a_killed_holder_holds_nothing(box: Box) -> None:
    holder = box.keeper(user=BOB)
    holder.says()
    holder.process.kill()
    holder.process.wait()
    assert {"held": True} == box.keeper("--wait").says()


@pytest.mark.slow
@EVERY_PROTECTION
@pytest.mark.usefixtures("protection")
@pytest.mark.parametrize(
    "trap",
    [
        "ln -s /tmp/victim dlperf-lock-0",
        "mkdir -m 777 dlperf-lock-0; ln -s /tmp/victim/file dlperf-lock-0/measuring.lock",
        "mkdir -m 777 dlperf-lock-0; mkfifo dlperf-lock-0/measuring.lock",
        "touch dlperf-lock-0",
        "mkdir -m 700 dlperf-lock-0",
    ],
)
def test_what_another_user_puts_in_the_way_is_passed_over(box: Box, trap: str) -> None:
    """Root takes and holds the lock all the same, and touches nothing of the other user's."""
    box.run("mkdir -m 700 victim; echo precious > victim/file; chmod 600 victim/file")
    box.run(trap, user=EVE)
    before = box.run("ls -lAR --time-style=full-iso /tmp/victim; cat /tmp/victim/file")
    holder = box.keeper()
    assert {"held": True} == holder.says()
    assert before == box.run("ls -lAR --time-style=full-iso /tmp/victim; cat /tmp/victim/file")
    for own_network in (False, True):
        assert {"holder"} == box.keeper(user=BOB, own_network=own_network).says().keys()
    assert "" == box.run("find /tmp -newer /tmp/victim/file -user 0 -perm /022 ! -type l ! -path /tmp")


@pytest.mark.slow
@EVERY_PROTECTION
@pytest.mark.usefixtures("protection")
@pytest.mark.parametrize(
    ("trap", "why"),
    [
        ("ln -s /tmp/victim/new x.lock", "is a symbolic link"),
        ("ln -s /tmp/victim/file x.lock", "is a symbolic link"),
        ("mkfifo x.lock", "not a regular file"),
        ("mkdir x.lock", "not a regular file"),
        ("touch x.lock; chmod 000 x.lock", None),
    ],
)
def test_a_named_file_that_cannot_be_the_lock_is_refused_with_the_reason(
    box: Box, trap: str, why: str | None
) -> None:
    box.run("mkdir -m 700 victim; echo precious > victim/file; chmod 600 victim/file; mkdir -m 777 eve")
    box.run(f"cd eve; {trap}", user=EVE)
    said = box.keeper(given=TRAPPED, user=0 if why else BOB).says()
    text = f"{TRAPPED}: {why or 'Permission denied'}; set DLPERF_HOST_LOCK to another file"
    assert {"problem": text} == said
    assert "file\n" == box.run("ls victim")


def test_no_file_that_is_made_can_be_written_by_others(box: Box) -> None:
    """Though the umask would allow it."""
    box.keeper(user=BOB).says()
    box.keeper(user=BOB, given=NAMED).says()
    modes = box.run("stat -c '%a %u %n' dlperf-lock-*/* dlperf-lock-* named.lock").splitlines()
    assert [
        f"644 {BOB} dlperf-lock-{BOB}/measuring.lock",
        f"755 {BOB} dlperf-lock-{BOB}",
        f"644 {BOB} named.lock",
    ] == modes
