"""One measuring dlperf per machine, whatever its user and container; the kernel frees a dead holder's lock.

Two locks are held together:

- an abstract Unix socket, which all users and containers of a network namespace share. It has no file that
  anyone could redirect or remove.
- a file of this user's own, `/tmp/dlperf-lock-UID/measuring.lock`. Every user can read it, and so see
  whether it is locked; only its owner can change it. Containers with networks of their own need it.

DLPERF_HOST_LOCK names one file in place of both, for containers that share neither a network nor /tmp.
Whoever can read it can lock it.

Links are not followed, and no file of another user is written to, or made writable for others.

As a program it holds the lock until its standard input ends, and says how it stands in JSON lines:

    python3 -I host_lock.py [--wait]
    {"holder": "process 12 of bench in /data, since ..."}    another dlperf holds it
    {"problem": "..."}                              it cannot be taken
    {"held": true}
"""

import contextlib
import errno
import fcntl
import json
import os
import pwd
import random
import select
import socket
import stat
import struct
import sys
import time
from pathlib import Path
from typing import List, Optional, Tuple

_SOCKET = "\0dlperf-measuring"
_FOLDER_OF_ALL = Path("/tmp")  # noqa: S108  see _own_file
_PREFIX, _FILE = "dlperf-lock-", "measuring.lock"
_MOST_FOLDERS = 100  # that other users may have made under this user's name
_LOOK_SECONDS = 0.2  # whoever looks whether a file is locked locks it for a moment
_FOR_OTHERS_TO_READ, _FOR_OTHERS_TO_ENTER = 0o644, 0o755

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not through a link, and without waiting for the other end of a pipe.
_FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Unusable(Exception):
    """The lock cannot be taken, though no other dlperf holds it; the text gives the reason."""


class HostLock:
    """The lock of this machine."""

    def __init__(self) -> None:
        self._held: Optional[contextlib.ExitStack] = None

    def take(self) -> Optional[str]:
        """Take the lock. None: it is ours; else who holds it, in words.

        Raises:
            Unusable: it cannot be taken, and waiting would not help.
        """
        if self._held is not None:
            return None
        given = os.environ.get("DLPERF_HOST_LOCK")
        with contextlib.ExitStack() as held:
            try:
                holder = _lock(_shared_file(Path(given)), held) if given else _take_both(held)
            except OSError as error:
                where = error.filename or given or _FOLDER_OF_ALL
                why = "is a symbolic link" if error.errno == errno.ELOOP else error.strerror
                raise Unusable(f"{where}: {why}; set DLPERF_HOST_LOCK to another file") from error
            if holder is None:
                self._held = held.pop_all()
        return holder

    def release(self) -> None:
        """Release it."""
        if self._held is not None:
            self._held.close()
            self._held = None


def _take_both(held: contextlib.ExitStack) -> Optional[str]:
    listener = held.enter_context(socket.socket(socket.AF_UNIX))
    try:
        listener.bind(_SOCKET)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return _words(_listening_process())
    listener.listen()  # who connects learns our process id
    own, folder = _own_file()
    holder = _lock(own, held)
    # Own file first, then those of others: of two that do so at once, at least one sees the other.
    for other in sorted(_FOLDER_OF_ALL.glob(f"{_PREFIX}*")):
        if holder is None and other != folder:
            with contextlib.ExitStack() as looking, contextlib.suppress(OSError):
                holder = _lock(_file_in(os.open(other, _FOLDER_FLAGS), os.O_RDONLY), looking, fcntl.LOCK_SH)
    return holder


def _own_file() -> Tuple[int, Path]:
    """The open lock file of this user, and its folder: the first that no other user has taken before us."""
    for number in range(_MOST_FOLDERS):
        folder = _FOLDER_OF_ALL / f"{_PREFIX}{os.geteuid()}{f'-{number}' if number else ''}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(_FOR_OTHERS_TO_ENTER)
        try:
            inside = os.open(folder, _FOLDER_FLAGS)
        except OSError:
            continue
        found = os.fstat(inside)
        if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            os.fchmod(inside, _FOR_OTHERS_TO_ENTER)  # whatever the umask is
            descriptor = _file_in(inside, os.O_RDWR | os.O_CREAT)
            os.fchmod(descriptor, _FOR_OTHERS_TO_READ)
            return descriptor, folder
        os.close(inside)
    raise OSError(errno.EPERM, "other users have taken every folder for the lock", str(_FOLDER_OF_ALL))


def _file_in(folder: int, flags: int) -> int:
    """Open the lock file in an open folder, which is closed."""
    try:
        return _regular(os.open(_FILE, flags | _FILE_FLAGS, _FOR_OTHERS_TO_READ, dir_fd=folder), _FILE)
    finally:
        os.close(folder)


def _shared_file(path: Path) -> int:
    """Open the file that the user names; where there is none it is made, for others to read."""
    if not os.path.lexists(path):
        with contextlib.suppress(FileExistsError):  # another process makes it at this moment
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE_FLAGS, _FOR_OTHERS_TO_READ)
            os.fchmod(descriptor, _FOR_OTHERS_TO_READ)
            return descriptor
    return _regular(os.open(path, os.O_RDONLY | _FILE_FLAGS), str(path))


def _regular(descriptor: int, path: str) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def _lock(descriptor: int, held: contextlib.ExitStack, kind: int = fcntl.LOCK_EX) -> Optional[str]:
    """Lock an open file, which `held` closes. None, or who holds it."""
    held.callback(os.close, descriptor)
    deadline = time.monotonic() + _LOOK_SECONDS
    while not _locked(descriptor, kind):
        if time.monotonic() > deadline:
            return _words(_locking_process(descriptor))
        time.sleep(_LOOK_SECONDS / 20)
    return None


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _listening_process() -> Optional[int]:
    """The process that has the socket; None where that cannot be told."""
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.settimeout(0)
        connection.connect(_SOCKET)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])
    return None


def _locking_process(descriptor: int) -> Optional[int]:
    """The process that holds the lock of a file; None where that cannot be told."""
    file = os.fstat(descriptor)
    holders = {}  # by device and inode: file systems number their files alike
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            row = line.split()
            if row[1] == "FLOCK" and row[3] == "WRITE" and row[5].split(":")[-1] == str(file.st_ino):
                holders[row[5]] = int(row[4])
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    found = holders.get(f"{device}:{file.st_ino}")
    # Some file systems, such as btrfs, show another device there than to stat.
    return next(iter(holders.values())) if found is None and len(holders) == 1 else found


def _words(process: Optional[int]) -> str:
    """Who a process is and since when it runs; for this program, the dlperf that started it."""
    folder = Path(f"/proc/{process}")
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        program = f"/{Path(__file__).name}\0".encode()
        if program in (folder / "cmdline").read_bytes() and int(fields[1]) > 1:
            return _words(int(fields[1]))
        rows = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        boot = next(int(row.split()[1]) for row in rows if row.startswith("btime "))
        user = folder.stat().st_uid
    except (OSError, IndexError, StopIteration):
        return "a process that cannot be seen from here"
    name = f"user {user}"
    with contextlib.suppress(KeyError):
        name = pwd.getpwuid(user).pw_name
    since = time.localtime(boot + int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    where = ""
    with contextlib.suppress(OSError):  # another user's
        where = f" in {os.readlink(folder / 'cwd')}"
    return f"process {process} of {name}{where}, since {time.strftime('%Y-%m-%d %H:%M:%S', since)}"


def main(arguments: List[str]) -> None:
    """Hold the lock until standard input ends; with `--wait` wait for another holder."""
    lock, told = HostLock(), None
    while True:
        try:
            holder = lock.take()
        except Unusable as error:
            _say(problem=str(error))
            return
        if holder is None:
            _say(held=True)
            sys.stdin.read()
            return
        if holder != told:
            _say(holder=holder)
            told = holder
        # Two that see each other both step back, but not for the same time.
        pause = random.uniform(0.1, 0.3)  # noqa: S311
        if "--wait" not in arguments or select.select([sys.stdin], [], [], pause)[0]:
            return


def _say(**content: object) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
