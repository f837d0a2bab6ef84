"""Files of our own: written whole or not at all, read back with what is wrong said in one line."""

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, TypeVar

import platformdirs
from pydantic import ValidationError

from dlperf.errors import InfrastructureError, UserError
from dlperf.model import Model

ModelT = TypeVar("ModelT", bound=Model)

# Longer than any write of a small file takes on a disk that works.
DISK_SECONDS = 60.0
MOST_DOCUMENT_BYTES = 64 << 20
MOST_LOG_BYTES = 64 << 30


def open_regular(path: Path | str, *, most_bytes: int = MOST_LOG_BYTES) -> BufferedReader:
    """Open a file to read.

    OSError also where it is no regular file (a pipe or /dev/zero would never end) or larger than that.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= most_bytes:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise OSError(errno.EFBIG, f"larger than {most_bytes >> 20} MiB", str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: Path | str) -> bytes:
    """The content of a document; raises as `open_regular`."""
    with open_regular(path, most_bytes=MOST_DOCUMENT_BYTES) as stream:
        return stream.read()


def read_document(path: Path, model: type[ModelT], *, kind: str, remedy: str) -> ModelT:
    """The file at `path`, whose model has a `schema_version`.

    UserError where there is none, it is of another version, or damaged; it calls the file by its `kind`, such
    as `baseline`, and ends with the `remedy`: how to come by a good one.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {remedy}") from None
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        version = version_problem(content, model)
        if version is not None:
            raise UserError(f"{path}: a {kind} of {version}; {remedy}") from None
        raise UserError(f"{path}: no {kind}: {first_problem(error)}; {remedy}") from None


def version_problem(content: bytes, model: type[Model]) -> str | None:
    """What is wrong with the schema version of a document; None where it is this dlperf's, or none at all."""
    known = model.model_fields["schema_version"].default
    version = _schema_version(content)
    if version is None or version == known:
        return None
    todo = "use a newer dlperf" if version > known else "remove it"
    return f"schema version {version}; this dlperf reads up to {known}: {todo}"


def is_newer(content: bytes, model: type[Model]) -> bool:
    """Whether a newer dlperf wrote a document."""
    version = _schema_version(content)
    return version is not None and version > model.model_fields["schema_version"].default


def _schema_version(content: bytes) -> int | None:
    try:
        version = json.loads(content).get("schema_version")
    except (ValueError, AttributeError, RecursionError):
        return None
    return version if isinstance(version, int) else None


def first_problem(error: ValidationError, *, not_json: str = "not JSON") -> str:
    """`place: what is wrong there`, of the first of a document's problems; or `not_json`."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return not_json
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def write_document(path: Path, content: Model, *, indent: int = 1) -> None:
    """Write a document as `write_atomically` does; its folder is made where there is none."""
    with answering(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (content.model_dump_json(indent=indent) + "\n").encode())


@contextmanager
def answering(path: Path) -> Iterator[None]:
    """End this process, with the path named, if the block, a small piece of work on a disk, takes too long.

    A thread that waits for a disk that does not answer cannot be interrupted, so there is no exception.
    """
    timer = threading.Timer(DISK_SECONDS, _end_process, [path])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_process(path: Path) -> None:
    text = f"{path}: the disk has not answered for {DISK_SECONDS:g} s; what is done is kept"
    os.write(2, f"dlperf: {text}: start again when the disk works\n".encode())
    os._exit(InfrastructureError.exit_code)


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Put `content` at `path`: a crash at any point leaves the old file or the new one, whole."""
    with replacing(path) as stream:
        stream.writelines([content] if isinstance(content, bytes) else content)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of the one at `path` when the block ends well, else is gone.

    The file and then its folder are flushed to the disk. Links are followed; what is no file, such as
    /dev/null or a pipe, is written to as it is. An error of the disk names the file.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101  mkstemp gives 0600, which another user's report could not read
        os.replace(name, path)  # noqa: PTH105
    except BaseException as error:
        os.unlink(name)  # noqa: PTH108
        if isinstance(error, OSError) and error.errno and not error.filename:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_root() -> Path:
    """The folder of all that dlperf keeps: DLPERF_CACHE, by default the user's cache folder."""
    given = os.environ.get("DLPERF_CACHE")
    return Path(given).expanduser().absolute() if given else platformdirs.user_cache_path("dlperf")


# Where the files that ship beside the package lie: in a checkout or inside an installed wheel.


_PACKAGE = Path(__file__).resolve().parent


def shipped_root() -> Path:
    """The folder that holds `frameworks/`, `experiments/`, `sweeps/`, `clusters/` and `templates/`."""
    installed = _PACKAGE / "_shipped"
    return installed if installed.is_dir() else _PACKAGE.parent


def shipped_folder(name: str) -> Path:
    """The shipped folder `name`, such as `sweeps`."""
    return shipped_root() / name


def run_shipped(module: str, *arguments: str, stdin: str = "", seconds: float, what: str) -> str:
    """Standard output of `python -m MODULE`, a program in frameworks/ that needs no framework.

    InfrastructureError where it fails, or takes more than `seconds`; `what` names it in the message.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=shipped_root(),  # first in the path of modules
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"{what}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InfrastructureError(f"{what}: {last}")
    return done.stdout
