"""`dlperf parse`: what a log parser makes of a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from dlperf.errors import UserError
from dlperf.files import replacing
from dlperf.importing.archives import Log, open_logs, open_stream
from dlperf.importing.dialects import choose_dialects
from dlperf.importing.dialects.base import Dialect
from dlperf.importing.reader import LogReader
from dlperf.importing.writers import WRITERS, Writer
from dlperf.logs.endings import Outcome

EXIT_NOTHING_USABLE = 2
EXIT_SOME_UNUSABLE = 3

_EPILOG = """\b
Examples:
  dlperf parse train.log
  dlperf parse train.log.gz --json
  dlperf parse 1n8g/*.log --format csv -o records.csv
  dlperf parse runs.tar.zst --dialect oneflow_face --unrecognised
  kubectl logs trainer-0 | dlperf parse -

JSON: one object per log, each on its line: {"file", "dialect", "records": [{"run", "line", "iteration",
"epoch", "rank", "samples_per_sec", "loss", "lr", "time"}, ...], "failure": {"kind", "evidence", "file",
"line"} or null}. "run" counts the runs appended in one file, "time" is in milliseconds since 1970.

Exit code 2: nothing usable; 3: some files are not logs and are named on standard error."""


@click.command(epilog=_EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--dialect", default="auto", show_default=True, metavar="NAME", help="The program that wrote it."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write here, not to stdout."
)
@click.option("--unrecognised", is_flag=True, help="Also show the lines that no dialect knows.")
@click.option(
    "--exit-code", type=int, metavar="N", help="The program's exit code, which says more about a failure."
)
@click.pass_context
def command(
    ctx: click.Context,
    *,
    files: tuple[Path, ...],
    dialect: str,
    form: str,
    out: Path | None,
    unrecognised: bool,
    exit_code: int | None,
) -> None:
    """Show what a log parser makes of FILE: plain, gzip, zstd, bzip2, xz, tar or zip; - is standard input."""
    dialects = choose_dialects(dialect)
    outcome = None if exit_code is None else Outcome.of_exit(exit_code)
    usable = unusable = 0
    with _output(out, files) as stream:
        writer = WRITERS[form](stream)
        for is_usable in _parse_all(files, writer, dialects, outcome=outcome, unrecognised=unrecognised):
            usable, unusable = usable + is_usable, unusable + (not is_usable)
    if unusable:
        ctx.exit(EXIT_SOME_UNUSABLE if usable else EXIT_NOTHING_USABLE)


@contextmanager
def _output(out: Path | None, files: Sequence[Path]) -> Iterator[IO[str]]:
    """Standard output, or a file that is there whole or not at all; a log is never overwritten."""
    if out is None:
        yield sys.stdout
        return
    if out.is_file() and any(file.exists() and out.samefile(file) for file in files):
        raise UserError(f"{out}: is one of the logs; write to another file")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        try:
            yield text
        finally:
            text.detach()


def _parse_all(
    files: Sequence[Path],
    writer: Writer,
    dialects: Sequence[Dialect],
    *,
    outcome: Outcome | None,
    unrecognised: bool,
) -> Iterator[bool]:
    """Write every log of every file, and yield whether each was usable."""
    for file in files:
        try:
            for log in _logs(file):
                yield _parse_one(log, writer, dialects, outcome=outcome, unrecognised=unrecognised)
        except UserError as error:
            click.echo(f"dlperf: {error}", err=True)
            yield False


def _logs(file: Path) -> Iterator[Log]:

    return open_stream("<stdin>", sys.stdin.buffer) if str(file) == "-" else open_logs(file)


def _parse_one(
    log: Log, writer: Writer, dialects: Sequence[Dialect], *, outcome: Outcome | None, unrecognised: bool
) -> bool:
    """Write one log; return whether it held something. What is wrong goes to standard error."""

    def note(line: int, text: bytes) -> None:
        writer.unrecognised(line, text.decode("utf-8", errors="replace").rstrip("\r"))

    reader = LogReader(log, dialects=dialects, outcome=outcome, unrecognised=note if unrecognised else None)
    writer.begin(file=log.name)
    problem: UserError | None = None
    try:
        for batch in reader:
            if reader.dialect is not None:
                writer.write(batch, dialect=reader.dialect.name)
        if reader.failure is None:
            reader.require_records()
    except UserError as error:
        problem = error
    writer.end(failure=reader.failure)
    for warning in log.warnings:
        click.echo(f"dlperf: {log.name}: {warning}", err=True)
    if problem is not None:
        click.echo(f"dlperf: {problem}", err=True)
    return problem is None
