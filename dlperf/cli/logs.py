"""`dlperf logs`: the logs of a case, their steps as a table."""

import datetime as dt
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import click

from dlperf.cli.options import CASE, CASE_HELP, at_least
from dlperf.cli.terminal import visible
from dlperf.errors import UserError
from dlperf.files import open_regular
from dlperf.layout import RESULT_NAME, repeat_of
from dlperf.logs.events import PREFIX, Step, read_events, step_of
from dlperf.results.query import find_run_folders, run_logs

_BLOCK = 1 << 16
_POLL_SECONDS = 0.2

_EPILOG = f"""\b
Examples:
  dlperf logs 242a22271c50
  dlperf logs oneflow results/quickstart --repeat 2 --rank 0
  dlperf logs 242a22271c50 --follow
  dlperf logs 242a22271c50 --raw

The steps of a run are rows of a table, in samples/s of the whole job and times of UTC; steps of another kind
than `train` do not count. Other lines are shown as the program printed them, without the events that only
programs read. --raw prints every line as it is in the log.

With several ranks every line begins with its rank, as in `[rank1] `. Control characters are shown as \\x1b,
\\r and so on, unless --raw is given. --follow ends with the run.

{CASE_HELP}"""


@click.command(epilog=_EPILOG)
@CASE
@click.option("-f", "--follow", is_flag=True, help="Print what is added until the run ends.")
@click.option("--repeat", type=at_least(1), help="Which run.  [default: the last]")
@click.option("--rank", "ranks", type=at_least(0), multiple=True, help="Only this rank. Repeatable.")
@click.option(
    "--node",
    "nodes",
    type=at_least(0),
    multiple=True,
    help="Only the ranks of this node, counted from 0. Repeatable.",
)
@click.option(
    "--raw", is_flag=True, help="Print the lines as they are; escape codes in them can control your terminal."
)
def command(
    *,
    case: str,
    folders: tuple[Path, ...],
    follow: bool,
    repeat: int | None,
    ranks: tuple[int, ...],
    nodes: tuple[int, ...],
    raw: bool,
) -> None:
    """Show the logs of a run of CASE, its steps as a table."""
    folder = _chosen(find_run_folders(case, folders or (Path("results"),)), repeat)
    out = sys.stdout.buffer
    readers: dict[Path, _LogReader] = {}
    is_last = False
    while not is_last:
        logs = run_logs(folder, ranks=ranks, nodes=nodes)
        # Asked before reading: what was written until then is read now.
        is_last = (folder / RESULT_NAME).is_file() or not follow
        for rank, path in logs.items():
            prefix = b"" if len(logs) == 1 else f"[rank{rank}] ".encode()
            reader = readers.setdefault(path, _LogReader(path, prefix, raw=raw))
            reader.print_new(out)
            if is_last:
                reader.print_unfinished_line(out)
        out.flush()
        if not is_last:
            time.sleep(_POLL_SECONDS)


def _chosen(found: list[Path], repeat: int | None) -> Path:
    chosen = [folder for folder in found if repeat is None or repeat_of(folder) == repeat]
    if not chosen:
        known = ", ".join(folder.name[1:] for folder in found)
        raise UserError(f"{found[0].parent}: no repeat {repeat}; there is {known}")
    if len({folder.parent for folder in chosen}) > 1:
        where = ", ".join(str(folder.parents[2]) for folder in chosen)
        raise UserError(f"several sweeps hold this case; name one of their folders: {where}")
    return chosen[-1]


_WIDTHS = (7, 8, 10, 10, 10, 8)
_HEADINGS = ("step", "kind", "samples/s", "seconds", "loss", "time")


class _LogReader:
    """Reads what a log gained; a new file at its place, of a run that started again, from its beginning."""

    def __init__(self, path: Path, prefix: bytes, *, raw: bool) -> None:
        """`prefix` stands in front of each line. Raw and without one, what is read is printed at once."""
        self._path, self._prefix, self._raw = path, prefix, raw
        self._inode = self._offset = 0
        self._unfinished = b""
        self._has_headings = False

    def print_new(self, out: IO[bytes]) -> None:
        """Print what is new; whole lines only, where they are looked at."""
        try:
            stream = open_regular(self._path)
        except FileNotFoundError:  # the run starts again
            return
        with stream:
            now = os.fstat(stream.fileno())
            if self._inode == now.st_ino and self._offset <= now.st_size:
                stream.seek(self._offset)
            else:
                self._has_headings = False
            while block := stream.read(_BLOCK):
                self._print(block, out)
            self._inode, self._offset = now.st_ino, stream.tell()

    def print_unfinished_line(self, out: IO[bytes]) -> None:
        """Print the last line, which has no end."""
        if self._unfinished:
            self._print(b"\n", out)

    def _print(self, data: bytes, out: IO[bytes]) -> None:
        if self._raw and not self._prefix:
            out.write(data)
            return
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        for line in lines:
            out.writelines(
                self._prefix + shown + b"\n" for shown in ([line] if self._raw else self._shown(line))
            )

    def _shown(self, line: bytes) -> Iterator[bytes]:
        """What stands for a line: a row, with headings over the first one; nothing; or its visible text."""
        text = line.removesuffix(b"\r").decode("utf-8", errors="backslashreplace")
        event = next(read_events([text]), None) if text.startswith(PREFIX) else None
        if event is None:
            yield visible(text).encode()
            return
        step = step_of(event)
        if step is not None:
            if not self._has_headings:
                yield _row(_HEADINGS)
            self._has_headings = True
            yield _row(_cells(step))


def _cells(step: Step) -> tuple[str, ...]:
    rate = step.samples / step.seconds if step.throughput is None else step.throughput
    loss = "-" if step.loss is None else f"{step.loss:.4f}"
    when = "-"
    if step.time_ms is not None:
        with suppress(ValueError, OverflowError, OSError):  # a year that there is not
            when = f"{dt.datetime.fromtimestamp(step.time_ms / 1000, dt.UTC):%H:%M:%S}"
    return str(step.step), visible(step.kind), f"{rate:.2f}", f"{step.seconds:.4f}", loss, when


def _row(cells: Iterable[str]) -> bytes:
    return " ".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).encode()
