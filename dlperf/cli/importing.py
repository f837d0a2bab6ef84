"""`dlperf parse` and `dlperf import`: logs of other programs, read, and turned into results."""

import io
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import click

from dlperf.cli import completing
from dlperf.cli.options import FILE, PATH, format_option
from dlperf.cli.terminal import VisibleStream, echo, say
from dlperf.errors import SourceErrors, UserError
from dlperf.files import replacing
from dlperf.importing.archives import Log, open_logs, open_stream
from dlperf.importing.case import KEYS, MissingSettings, Rule, facts_of_settings
from dlperf.importing.convert import METHODS as METHOD_NAMES
from dlperf.importing.dialects import choose_dialects
from dlperf.importing.dialects.base import Dialect
from dlperf.importing.reader import LogReader
from dlperf.importing.run_folders import Done, Instructions, alone_in, files_of, import_file
from dlperf.importing.writers import WRITERS, Writer
from dlperf.logs.endings import Outcome
from dlperf.plan.documents import read_document, unknown

DIALECT = click.option(
    "--dialect",
    default="auto",
    metavar="NAME",
    shell_complete=completing.dialects,
    help="The program that wrote the log.",
)

EXIT_NOTHING_USABLE = 2
EXIT_SOME_UNUSABLE = 3

_PARSE_EPILOG = """\b
Examples:
  dlperf parse train.log
  dlperf parse train.log.gz --json
  dlperf parse 1n8g/*.log --format csv -o records.csv
  dlperf parse runs.tar.zst --dialect oneflow_face --unrecognised
  kubectl logs trainer-0 | dlperf parse -

JSON: one object per log, each on its line: {"file", "dialect", "records": [{"run", "line", "iteration",
"epoch", "rank", "samples_per_sec", "loss", "lr", "time"}, ...], "failure": {"kind", "evidence", "file",
"line"} or null}. "run" numbers the runs in one file from 0, "time" is in milliseconds since 1970.

Exit codes: 2 nothing usable, 3 some files are not logs; standard error names them."""


@click.command(epilog=_PARSE_EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=PATH)
@DIALECT
@format_option("table", "json", "csv")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("-o", "--out", type=FILE, help="Write to this file instead of standard output.")
@click.option("--unrecognised", is_flag=True, help="Also show the lines that no dialect knows.")
@click.option(
    "--exit-code", type=int, metavar="N", help="Exit code of the program, to tell the cause of a failure."
)
@click.pass_context
def parse(
    ctx: click.Context,
    *,
    files: tuple[Path, ...],
    dialect: str,
    form: str,
    out: Path | None,
    unrecognised: bool,
    exit_code: int | None,
) -> None:
    """Show what a log parser reads from FILE, and the rate of each run.

    FILE is plain text, gzip, zstd, bzip2, xz, tar or zip; - is standard input.
    """
    dialects = choose_dialects(dialect)
    outcome = None if exit_code is None else Outcome.of_exit(exit_code)
    usable = unusable = 0
    with _output(out, files, form=form) as stream:
        writer = WRITERS[form](stream)
        for is_usable in _parse_all(files, writer, dialects, outcome=outcome, unrecognised=unrecognised):
            usable, unusable = usable + is_usable, unusable + (not is_usable)
    if unusable:
        ctx.exit(EXIT_SOME_UNUSABLE if usable else EXIT_NOTHING_USABLE)


@contextmanager
def _output(out: Path | None, files: Sequence[Path], *, form: str) -> Iterator[IO[str]]:
    """Standard output, or a file that is there whole or not at all; a log is never overwritten."""
    if out is None:
        is_for_people = form == "table" or sys.stdout.isatty()
        yield cast("IO[str]", VisibleStream()) if is_for_people else sys.stdout
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
            say(f"dlperf: {error}")
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
                writer.write(batch, dialect=reader.dialect)
        if reader.failure is None:
            reader.require_records()
    except UserError as error:
        problem = error
    writer.end(failure=reader.failure)
    for warning in log.warnings:
        say(f"dlperf: {log.name}: {warning}")
    if problem is not None:
        say(f"dlperf: {problem}")
    return problem is None


EXIT_NOTHING_IMPORTED = 2
EXIT_SOME_NOT_IMPORTED = 3
METHODS = ("dlperf", "dlperf-2021")

_IMPORT_EPILOG = """\b
Examples:
  dlperf import logs/ --set version=0.3.4 --set experiment=r100_emore --set parallelism=data
  dlperf import logs/ runs.tar.gz --map which.yaml
  dlperf import logs/ --map which.yaml --method dlperf-2021

A path <N>n<G>g/<network>_b<batch>_<precision>_<run>.log, the layout of 2021, gives topology, batch size,
precision and repeat; the text of a log may give more. dlperf asks for what is missing. Keys of --set and of
a mapping file: framework, version, experiment, parallelism, sample_ratio, topology, device,
batch_size_per_device, precision, num_classes, threads_per_device, repeat, warmup_iterations, network,
dataset. A mapping file holds patterns of file names:

\b
  "*/r100_*": {experiment: r100_emore, version: 0.3.4}
  "*/y1_*": {experiment: y1_emore, version: 0.3.4}

Methods: dlperf divides samples by seconds over all records after the warm-up; dlperf-2021 computes as the
2021 comparison did. Each method has its own folder, so that no case mixes them.

Importing the same file again changes nothing.

Exit codes: 2 nothing could be imported, 3 some files could not; standard error names them."""


@click.command("import", epilog=_IMPORT_EPILOG)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=PATH)
@DIALECT
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting that the logs do not name. Repeatable.",
)
@click.option("--map", "map_file", type=FILE, help="Settings per file, as YAML.")
@click.option("--method", type=click.Choice(METHODS), default="dlperf", help="How a figure is computed.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    help="Results folder.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Folder in the results folder.  [default: imported, or imported-dlperf-2021]",
)
@click.pass_context
def import_(
    ctx: click.Context,
    *,
    paths: tuple[Path, ...],
    dialect: str,
    settings: tuple[str, ...],
    map_file: Path | None,
    method: str,
    results: Path,
    name: str | None,
) -> None:
    """Convert the logs at PATH (files, folders, archives) to results beside your own."""
    choose_dialects(dialect)
    if name is not None and (Path(name).name != name or name == ".."):
        raise click.UsageError(f"--name {name}: is the name of one folder; --results says where it lies")
    instructions = Instructions(
        sweep=results / (name or ("imported" if method == "dlperf" else f"imported-{method}")),
        method=METHOD_NAMES[method],
        dialect=dialect,
        settings=facts_of_settings(_pairs(settings), "--set"),
        rules=_rules(map_file) if map_file else (),
        here=Path.cwd(),
    )
    files = list(files_of(paths, results=results))
    if not files:
        raise UserError(f"{', '.join(map(str, paths))}: no file in it")
    good, bad = _import_all(files, instructions)
    for rule in instructions.rules:
        if not rule.is_used:
            say(f"dlperf: {rule.source}: {rule.pattern!r} matches no log: neither its whole name nor its end")
    if good:
        say(f"Next: {shlex.join(['dlperf', 'report', str(instructions.sweep), '--out', 'report.md'])}")
    if bad:
        ctx.exit(EXIT_SOME_NOT_IMPORTED if good else EXIT_NOTHING_IMPORTED)


def _import_all(files: Sequence[Path | UserError], instructions: Instructions) -> tuple[int, int]:
    """Import them and report each; how many runs were good and logs bad.

    Everything that is missing is asked for once for all files, at the end.
    """
    good = bad = 0
    incomplete: list[MissingSettings] = []
    with alone_in(instructions.sweep):
        for file in files:
            for outcome in (file,) if isinstance(file, UserError) else import_file(file, instructions):
                if isinstance(outcome, Done):
                    good += 1
                    _show(outcome)
                    continue
                bad += 1
                if isinstance(outcome, MissingSettings):
                    incomplete.append(outcome)
                else:
                    say(f"dlperf: {outcome}")
    if incomplete:
        _ask(incomplete)
    return good, bad


def _ask(incomplete: Sequence[MissingSettings]) -> None:
    """Say what is not known of the logs: each setting once, with the logs that lack it."""
    names = [each.name for each in incomplete]
    say(f"dlperf: {_some(names)}: settings are missing; give them with --set, or per file with --map:")
    width = max(len(f"--set {key}=...") for each in incomplete for key in each.hints)
    for key in KEYS:
        lacking: dict[str, list[str]] = {}
        for each in incomplete:
            if key in each.hints:
                lacking.setdefault(each.hints[key], []).append(each.name)
        for hint, of in lacking.items():
            where = "" if of == names else f" [{_some(of)}]"
            say(f"  {f'--set {key}=...':<{width}}  {hint}{where}")


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _show(done: Done) -> None:
    """Print the result of one run of a log."""
    result = done.result
    what = f"{result.status.value}: {result.reason}"
    if result.figures is not None:
        what = f"{result.figures.samples_per_sec:.2f} samples/s"
    how = "imported" if done.is_new else "unchanged"
    echo(f"{how:<9} {done.source}: {what} -> {done.folder}")
    for warning in done.warnings:
        say(f"dlperf: {done.source}: {warning}")


def _pairs(settings: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in settings:
        key, separator, value = text.partition("=")
        if not separator or not key.strip() or not value.strip():
            raise click.UsageError(f"--set {text}: write KEY=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs


def _what_is_wrong(key: str, value: object) -> str | None:
    """What is wrong with a value of a mapping file; None where nothing is."""
    if key == "version" and isinstance(value, float):
        return "YAML takes this for a number and drops a 0 at its end; write it in quotes"
    is_one = isinstance(value, str | int | float) and not isinstance(value, bool)
    return None if is_one else "write one word or number"


def _rules(path: Path) -> list[Rule]:
    """Read the mapping file: pattern -> settings."""
    document = read_document(path, shown=str(path))
    if document.problems:
        raise SourceErrors(list(document.problems))
    rules = []
    for pattern, given in document.data.items():
        place = document.keys[(pattern,)]
        if not isinstance(given, dict):
            raise SourceErrors([place.problem(f"{pattern}: write the settings as {{key: value, ...}}")])
        problems = []
        for key, value in given.items():
            if key not in KEYS:
                problems.append(document.keys[pattern, key].problem(unknown("key", key, KEYS)))
            if wrong := _what_is_wrong(key, value):
                problems.append(document.values[pattern, key].problem(f"{key}: {wrong}"))
        if problems:
            raise SourceErrors(problems)
        source = f"{path}:{place.line}"
        facts = facts_of_settings({key: str(value) for key, value in given.items()}, source)
        rules.append(Rule(pattern=pattern, facts=facts, source=source))
    return rules
