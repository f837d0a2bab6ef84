"""The working folder of one run: a copy of the source, with edits and written files, shown as a diff."""

import difflib
import shutil
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional


class Unfit(Exception):
    """The source is not what the adapter was written for; the text is one line for a person."""


class Edit(NamedTuple):
    """In `file`, `after` replaces `before`, which occurs there once."""

    file: str
    before: str
    after: str


def make(source: Path, work: Path, edits: List[Edit], files: Dict[str, str]) -> List[str]:
    """Copy `source` to `work`, apply the edits, write the files; the lines of a unified diff of both.

    `files` are texts by path below `work`; they may replace files of the source. What was in `work` before is
    removed. Unfit where an edit does not fit or a path leaves the folder; OSError where a file cannot be
    read or written.
    """
    if work.exists():
        shutil.rmtree(str(work))
    shutil.copytree(str(source), str(work))
    changed: Dict[str, str] = {}
    for number, edit in enumerate(edits, 1):
        path = _inside(work, edit.file)
        if not path.is_file():
            raise Unfit(f"edit {number}: the source has no file {edit.file}")
        text = changed.get(edit.file)
        text = _read(path) if text is None else text
        count = text.count(edit.before)
        if count != 1:
            raise Unfit(
                f"edit {number} does not fit {edit.file}: the text to replace occurs {count} times, not once "
                f"({_shown(edit.before)}); this commit of the source differs from those known to run"
            )
        changed[edit.file] = text.replace(edit.before, edit.after)
    changed.update(files)
    diff: List[str] = []
    for name, text in changed.items():
        path = _inside(work, name)
        before = _read(path) if path.is_file() else None
        diff.extend(_diff(name, before, text))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    return diff


def _inside(work: Path, name: str) -> Path:
    """The path of `name` below the working folder."""
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise Unfit(f"{name!r} is not a path below the working folder")
    return work / relative


def _read(path: Path) -> str:
    """The text, line ends as they are; bytes that are not UTF-8 survive `make`."""
    return path.read_bytes().decode("utf-8", errors="surrogateescape")


def _diff(name: str, before: Optional[str], after: str) -> Iterator[str]:
    old = [] if before is None else before.splitlines()
    from_name = "/dev/null" if before is None else f"a/{name}"
    lines = difflib.unified_diff(old, after.splitlines(), from_name, f"b/{name}", lineterm="")
    for line in lines:
        yield line.encode("utf-8", errors="replace").decode("utf-8")


def _shown(text: str) -> str:
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return repr(first[:80])
