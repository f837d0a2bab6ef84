"""The source of an original training program: found, checked, hashed, and packed for the nodes.

The files of strangers are data here: they are read and never run, and neither a repository's hooks nor its
configuration can start a program. What a case is named by is `content_hash` over the folders that the adapter
needs; the user's checkout is never changed.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock

from dlperf.adapters.base import Adapter
from dlperf.errors import InfrastructureError, UserError
from dlperf.files import cache_root
from dlperf.layout import SOURCES_FOLDER
from dlperf.plan.case import Source
from dlperf.plan.sweep import SourceEntry

MOST_FILES = 20_000
MOST_FILE_BYTES = 64 << 20
MOST_BYTES = 1 << 30
_GIT_SECONDS = 60.0
_CLONE_SECONDS = 1800.0
_FULL_COMMIT = 40
_LEFT_OUT = frozenset({".git", "__pycache__"})
_SHOWN_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFiles:
    """The files of an original program on this machine, and what names them in a case."""

    source: Source
    checkout: Path  # absolute; of it the adapter's `source.folders` count


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _File:
    """One file: its name below the checkout, with slashes, and whether it may be executed."""

    name: str
    path: Path
    executable: bool


def resolve(entry: SourceEntry, *, adapter: Adapter, folder: Path) -> ProgramFiles:
    """The files that a sweep names; `folder` is that of relative paths. A git repository is fetched once.

    ValueError where they are not there, or not what may be read; its text is one line without the path.
    """
    needed = adapter.source
    if needed is None:
        raise ValueError(f"{adapter.name} trains a loop of its own and takes no source; remove this key")
    if entry.path is not None:
        checkout, commit = Path(os.path.normpath(folder / Path(entry.path).expanduser())), None
        if not checkout.is_dir():
            what = "is a file" if checkout.exists() else "is not there"
            raise ValueError(f"{checkout} {what}; name the folder of a checkout (git clone {needed.url})")
    else:
        checkout, commit = fetched(str(entry.git), str(entry.commit))
    for name in needed.folders:
        if not (checkout / name).is_dir() or (checkout / name).resolve() != checkout.resolve() / name:
            raise ValueError(f"{checkout} has no folder {name}; name the top of a checkout of {needed.url}")
    files = _files(checkout, needed.folders)
    digest, blobs = _digests(files)
    if commit is None:
        commit = _commit(checkout, needed.folders, blobs)
    return ProgramFiles(
        source=Source(engine=needed.engine, content_hash=digest, commit=commit), checkout=checkout
    )


def missing(adapter: Adapter) -> str:
    """What to say where a sweep names no source for a program that needs one."""
    url = adapter.source.url if adapter.source is not None else ""
    return (
        f"{adapter.name} needs the files of the original program: write source: /path/to/checkout, or give "
        f"--source {adapter.name}=/path/to/checkout (git clone {url})"
    )


def unknown_commit(source: Source, adapter: Adapter) -> str | None:
    """Why it is not known that the program runs from this source; None where it is."""
    known = adapter.source.commits if adapter.source is not None else ()
    if not known:
        return None
    listed = ", ".join(known)
    if source.commit is None:
        return f"the source is no git checkout, so its commit is not known; known to run: {listed}"
    commit = source.commit.removesuffix("-dirty")
    if not any(commit.startswith(one) or one.startswith(commit) for one in known):
        return f"{source.commit} is not one of the commits known to run: {listed}"
    if commit != source.commit:
        return f"the files of the source differ from its commit, {commit}"
    return None


def _files(checkout: Path, folders: Sequence[str]) -> list[_File]:
    """The regular files below the folders, by name; ValueError for what is none, and for too many."""
    found: dict[str, _File] = {}
    size = 0
    for folder in folders:
        for name, status in _walk(checkout, folder):
            size += status.st_size
            if status.st_size > MOST_FILE_BYTES:
                raise ValueError(f"{name} is larger than {MOST_FILE_BYTES >> 20} MiB; a source is code")
            executable = bool(status.st_mode & stat.S_IXUSR)
            found[name] = _File(name=name, path=checkout / name, executable=executable)
            if len(found) > MOST_FILES:
                raise ValueError(f"it has more than {MOST_FILES} files; is it the right folder?")
            if size > MOST_BYTES:
                raise ValueError(f"its files are larger than {MOST_BYTES >> 30} GiB; is it the right folder?")
    return sorted(found.values())


def _walk(checkout: Path, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Name and status of each file below the folder; ValueError where one is neither file nor folder."""
    try:
        with os.scandir(checkout / folder) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
        for child in children:
            name = os.path.normpath(f"{folder}/{child.name}")
            status = child.stat(follow_symlinks=False)
            if child.name in _LEFT_OUT or child.name.endswith(".pyc"):
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(checkout, name)
            elif stat.S_ISREG(status.st_mode):
                yield name, status
            else:
                kind = "a link" if stat.S_ISLNK(status.st_mode) else "no regular file"
                raise ValueError(f"{name} is {kind}; a source may hold files and folders alone")
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None


def _digests(files: Sequence[_File], *, copy_to: Path | None = None) -> tuple[str, dict[str, str]]:
    """The content hash of the files, and git's id of each with its mode; copies them on the way.

    ValueError where one cannot be read.
    """
    whole, blobs = hashlib.sha256(), {}
    for file in files:
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                content = stream.read(MOST_FILE_BYTES + 1)
        except OSError as error:
            raise ValueError(f"{file.path}: {error.strerror}") from None
        name = file.name.encode("utf-8", errors="surrogateescape")
        whole.update(b"%d %s %d %d\0" % (len(name), name, file.executable, len(content)))
        whole.update(content)
        blob = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
        blob.update(content)
        blobs[file.name] = f"{'100755' if file.executable else '100644'} {blob.hexdigest()}"
        if copy_to is not None:
            target = copy_to / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o755 if file.executable else 0o644)
    return whole.hexdigest()[:_SHOWN_DIGITS], blobs


def packed(files: ProgramFiles, *, folders: Sequence[str]) -> Path:
    """The folder of the files in the cache, named by their content hash: runs are made from it.

    UserError where the checkout has changed since the plan was made; InfrastructureError where the cache
    cannot be written.
    """
    digest, root = files.source.content_hash, cache_root() / SOURCES_FOLDER
    target = root / digest
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{digest}.lock"):
            if target.is_dir():
                if _hash_of(target) == digest:
                    return target
                shutil.rmtree(target)
            made = Path(tempfile.mkdtemp(prefix=f".{digest}-", dir=root))
            try:
                _copy(files, folders, made)
                made.chmod(0o755)
                made.rename(target)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise InfrastructureError(f"{error.filename or root}: {error.strerror or error}") from error
    return target


def _hash_of(folder: Path) -> str | None:
    try:
        return _digests(_files(folder, ["."]))[0]
    except ValueError:
        return None


def _copy(files: ProgramFiles, folders: Sequence[str], target: Path) -> None:
    try:
        digest, _ = _digests(_files(files.checkout, folders), copy_to=target)
    except ValueError as error:
        raise UserError(f"{files.checkout}: {error}") from None
    if digest != files.source.content_hash:
        raise UserError(
            f"{files.checkout}: its files changed since the plan was made ({files.source.content_hash} then, "
            f"{digest} now); restore them, or start again with --results DIR"
        )


# git may find programs to run in the configuration of a repository: nothing here reads it for more than
# objects, and no protocol but these is spoken.
_QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "https:ssh:file",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
}
_SAFE = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "submodule.recurse=false")


def _git(*words: str, seconds: float, more: dict[str, str] | None = None) -> bytes:
    """Standard output of git; ValueError with the line that says why where it fails."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *_SAFE, *words],
            env={**variables, **_QUIET, **(more or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise ValueError("git is not installed; install it, or write the path of a checkout") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"git: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        fatal = next((line for line in said if line.startswith("fatal: ")), said[-1])
        raise ValueError(f"git: {' '.join(fatal.removeprefix('fatal: ').split())}")
    return done.stdout


def _commit(checkout: Path, folders: Sequence[str], blobs: dict[str, str]) -> str | None:
    """The commit of a checkout, `-dirty` where these files are not its own; None where it is not known."""
    if not (checkout / ".git").exists():
        return None
    no_fetch = {"GIT_ALLOW_PROTOCOL": "none", "GIT_CONFIG_NOSYSTEM": "1"}
    there = partial(_git, "-C", str(checkout), seconds=_GIT_SECONDS, more=no_fetch)
    try:
        commit = there("rev-parse", "--verify", "HEAD")
        listed = there("ls-tree", "-r", "-z", "HEAD", "--", *folders)
    except ValueError:
        return None
    known = {}
    for line in listed.split(b"\0"):
        facts, tab, name = line.partition(b"\t")
        file = name.decode("utf-8", errors="surrogateescape")
        if tab and _LEFT_OUT.isdisjoint(file.split("/")) and not file.endswith(".pyc"):
            mode, _, blob = facts.decode().split()
            known[file] = f"{mode} {blob}"
    return commit.decode().strip() + ("" if known == blobs else "-dirty")


def fetched(url: str, commit: str) -> tuple[Path, str]:
    """The files of a commit in the cache, and the whole commit; ValueError where it cannot be fetched."""
    root = cache_root() / "checkouts"
    key = hashlib.sha256(url.encode()).hexdigest()[:_SHOWN_DIGITS]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{key}.lock"):
            there = sorted(root.glob(f"{key}-{commit}*"))
            if len(there) == 1:
                return there[0], there[0].name.partition("-")[2]
            with tempfile.TemporaryDirectory(prefix=f".{key}-", dir=root) as temporary:
                made = Path(temporary) / "checkout"
                whole = _clone(url, commit, made)
                target = root / f"{key}-{whole}"
                if not target.is_dir():
                    shutil.rmtree(made / ".git")
                    made.rename(target)
                return target, whole
    except OSError as error:
        raise ValueError(f"{error.filename or root}: {error.strerror or error}") from None


def _clone(url: str, commit: str, folder: Path) -> str:
    """Check out a commit into a new folder, without its history where the server can; the whole commit."""
    at = ("-C", str(folder))
    _git("init", "-q", "--template=", str(folder), seconds=_GIT_SECONDS)
    fetch = (*at, "fetch", "-q", "--no-tags", "--no-recurse-submodules")
    try:
        if len(commit) < _FULL_COMMIT:
            raise ValueError("an abbreviated commit is not known to servers")  # noqa: TRY301
        _git(*fetch, "--depth=1", "--", url, commit, seconds=_CLONE_SECONDS)
    except ValueError:
        _git(*fetch, "--", url, "+refs/heads/*:refs/remotes/origin/*", seconds=_CLONE_SECONDS)
    try:
        whole = _git(*at, "rev-parse", "--verify", f"{commit}^{{commit}}", seconds=_GIT_SECONDS)
    except ValueError:
        raise ValueError(f"the repository has no commit {commit} in its branches") from None
    name = whole.decode().strip()
    # Without the user's configuration: a filter of it would be a program that the repository chooses.
    alone = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    _git(*at, "checkout", "-q", "--detach", name, seconds=_CLONE_SECONDS, more=alone)
    return name
