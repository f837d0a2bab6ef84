"""Bring `frameworks/` to a node, once per content, and start its programs there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.shipped import shipped_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

# Runs on whatever Python the node has. WORK HASH BYTES: say whether the code is there, take it where it is
# not, become the program that answers requests. Standard input is not read ahead: the rest is that program's.
_BOOTSTRAP = """
import io, os, sys, tarfile, tempfile
work, name, size = os.path.expanduser(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if sys.version_info < (3, 8):
    sys.exit("dlperf needs Python 3.8 or newer on the node, this is %s" % sys.version.split()[0])
codes = os.path.join(os.path.abspath(work), "code")
code = os.path.join(codes, name)
there = os.path.isdir(code)
try:
    os.makedirs(codes, exist_ok=True)
except OSError as error:
    sys.exit("the working folder cannot be made: %s" % error)
os.write(1, b"there\\n" if there else b"missing\\n")
if not there:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            sys.exit("the code came only in part")
        parts.append(part)
        size -= len(part)
    made = tempfile.mkdtemp(prefix=".coming-", dir=codes)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        archive.extractall(made)
    os.chmod(made, 0o755)
    try:
        os.rename(made, code)
    except OSError:
        if not os.path.isdir(code):
            raise
sys.stdout.flush()
os.execv(sys.executable, [sys.executable, "-I", "-B", "-c", sys.argv[4], code, sys.argv[1]])
"""
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from frameworks.node.__main__ import main; sys.exit(main())"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a node needs of dlperf: `content` is a tar, `name` its hash."""

    name: str
    content: bytes


@cache
def shipped_code() -> Code:
    """All Python files of `frameworks/`, the same bytes for the same files."""
    root = shipped_folder("frameworks")
    digest, stream = hashlib.sha256(), io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in sorted(root.rglob("*.py")):
            content = path.read_bytes()
            entry = tarfile.TarInfo(str(Path("frameworks") / path.relative_to(root)))
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
            digest.update(entry.name.encode() + b"\0" + content + b"\0")
    return Code(name=digest.hexdigest()[:16], content=stream.getvalue())


def attending(python: str, *, work: str, code: Code) -> list[str]:
    """The command that asks for the code where it is missing and then answers requests."""
    source = _one_line(_BOOTSTRAP)
    return [python, "-I", "-B", "-c", source, work, code.name, str(len(code.content)), _one_line(_PROGRAM)]


def program(python: str, *, code: Path, work: str, words: Sequence[str]) -> list[str]:
    """The command for anything else that `frameworks/node` does."""
    return [python, "-I", "-B", "-c", _one_line(_PROGRAM), str(code), work, *words]


def _one_line(source: str) -> str:
    """Without a character that any login shell could mind."""
    packed = base64.b64encode(source.encode()).decode()
    return f"import base64;exec(base64.b64decode('{packed}'))"
