"""`dlperf logs`: the raw logs of a case, as they came."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import click

from dlperf.errors import UserError
from dlperf.layout import repeat_of
from dlperf.results.runlogs import RunLogs, find_run_folders, run_logs

_BLOCK = 1 << 16
_POLL_SECONDS = 0.2

_EPILOG = """\b
Examples:
  dlperf logs 242a22271c50
  dlperf logs oneflow results/quickstart --repeat 2 --rank 0
  dlperf logs 242a22271c50 --follow

With several ranks every line begins with its rank, as in `[rank1] `. --follow ends when the run has its
result."""


@click.command(epilog=_EPILOG)
@click.argument("case", metavar="CASE")
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until the run ends.")
@click.option("--repeat", type=click.IntRange(min=1), metavar="N", help="Which run  [default: the last].")
@click.option(
    "--rank", "ranks", type=click.IntRange(min=0), multiple=True, metavar="R", help="Only this rank."
)
@click.option(
    "--node", "nodes", type=click.IntRange(min=0), multiple=True, metavar="N", help="Only this node."
)
def command(
    *,
    case: str,
    folders: tuple[Path, ...],
    follow: bool,
    repeat: int | None,
    ranks: tuple[int, ...],
    nodes: tuple[int, ...],
) -> None:
    """Print the logs of a run of CASE.

    CASE is a case's id, its content hash (the id's last 12 digits) or a part of the id that no other case
    has. DIR is a results folder or the folder of one sweep (default: results).
    """
    found = find_run_folders(case, folders or (Path("results"),))
    folder = _chosen(found, repeat)
    logs = run_logs(folder, ranks=ranks, nodes=nodes)
    if follow and not logs.is_finished:
        _follow(lambda: run_logs(folder, ranks=ranks, nodes=nodes))
    else:
        _print_all(logs)


def _chosen(found: list[Path], repeat: int | None) -> Path:

    chosen = [folder for folder in found if repeat is None or repeat_of(folder) == repeat]
    if not chosen:
        known = ", ".join(folder.name[1:] for folder in found)
        raise UserError(f"{found[0].parent}: no repeat {repeat}; there is {known}")
    if len({folder.parent for folder in chosen}) > 1:
        where = ", ".join(str(folder.parents[2]) for folder in chosen)
        raise UserError(f"several sweeps hold this case; name one of their folders: {where}")
    return chosen[-1]


def _print_all(logs: RunLogs) -> None:
    out = sys.stdout.buffer
    for rank, path in logs.logs:
        printer = _Printer(out, prefix=_prefix(rank, logs))
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                printer.write(block)
        printer.finish()
    out.flush()


def _follow(look: Callable[[], RunLogs]) -> None:
    """Print what each log gains, until the run has its result and everything was read."""
    out = sys.stdout.buffer
    printers: dict[Path, _Printer] = {}
    places: dict[Path, _Place] = {}
    while True:
        logs = look()
        is_finished = logs.is_finished  # asked before reading: what was written until then is read now
        for rank, path in logs.logs:
            if not path.exists():  # the run is being made anew
                continue
            printer = printers.setdefault(path, _Printer(out, prefix=_prefix(rank, logs)))
            places[path] = _print_new(path, printer, places.get(path))
        out.flush()
        if is_finished:
            break
        time.sleep(_POLL_SECONDS)
    for printer in printers.values():
        printer.finish()
    out.flush()


class _Place(NamedTuple):
    """How far a file was read."""

    inode: int
    offset: int


def _print_new(path: Path, printer: _Printer, place: _Place | None) -> _Place:
    """Print what the log gained; that of a run that is made anew is a new one, printed from its beginning."""
    with path.open("rb") as stream:
        now = os.fstat(stream.fileno())
        if place is not None and place.inode == now.st_ino and place.offset <= now.st_size:
            stream.seek(place.offset)
        while block := stream.read(_BLOCK):
            printer.write(block)
        return _Place(now.st_ino, stream.tell())


def _prefix(rank: int, logs: RunLogs) -> bytes:
    return b"" if len(logs.logs) == 1 else f"[rank{rank}] ".encode()


class _Printer:
    """Writes whole lines with a prefix; without a prefix everything at once."""

    def __init__(self, out: IO[bytes], *, prefix: bytes) -> None:
        self._out, self._prefix = out, prefix
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Write what is whole of it."""
        if not self._prefix:
            self._out.write(data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._out.writelines(self._prefix + line + b"\n" for line in lines)

    def finish(self) -> None:
        """Write the last line, though it has no end."""
        if self._rest:
            self._out.write(self._prefix + self._rest + b"\n")
            self._rest = b""
