"""known_hosts as `ssh` reads it: damaged lines are passed over, revoked keys are trusted nowhere."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from paramiko.hostkeys import HostKeyEntry, InvalidHostKey
from paramiko.ssh_exception import SSHException

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from paramiko.hostkeys import HostKeys

_REVOKED = "@revoked"


def take_known_hosts(keys: HostKeys, paths: Iterable[Path]) -> frozenset[str]:
    """Add the keys that the files know to `keys`; the revoked ones, which are not among them, in base64.

    Files that are not there are passed over. Certificate authorities are not trusted: paramiko knows no host
    certificates. Of two keys of one type for one name the first counts.
    """
    lines = [line for path in paths for line in _lines(path)]
    revoked = frozenset(entry.key.get_base64() for marker, entry in lines if marker == _REVOKED)
    taken = set()
    for marker, entry in lines:
        kind = entry.key.get_name()
        if marker or entry.key.get_base64() in revoked:
            continue
        for name in entry.hostnames:
            if (name, kind) not in taken:
                keys.add(name, kind, entry.key)
                taken.add((name, kind))
    return revoked


def _lines(path: Path) -> Iterator[tuple[str, HostKeyEntry]]:
    """The marker of each line, mostly none, and its entry; lines without a key that is known are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        entry = None
        if words and not words[0].startswith("#"):
            with suppress(InvalidHostKey, SSHException, ValueError):
                entry = HostKeyEntry.from_line(" ".join(words))
        if entry is not None and entry.key is not None:
            yield marker, entry
