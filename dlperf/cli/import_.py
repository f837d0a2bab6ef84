"""`dlperf import`: logs of other programs become results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dlperf.errors import SourceErrors, UserError
from dlperf.importing.case import KEYS, Facts, MissingSettings, facts_of_settings
from dlperf.importing.convert import METHODS as METHOD_NAMES
from dlperf.importing.dialects import choose_dialects
from dlperf.importing.run_folders import Done, Instructions, alone_in, files_of, import_file
from dlperf.plan.documents import read_document, unknown

EXIT_NOTHING_IMPORTED = 2
EXIT_SOME_NOT_IMPORTED = 3
METHODS = ("dlperf", "dlperf-2021")

_EPILOG = """\b
Examples:
  dlperf import logs/ --set version=0.3.4 --set experiment=r100_emore --set parallelism=data
  dlperf import logs/ runs.tar.gz --map which.yaml
  dlperf import logs/ --map which.yaml --method dlperf-2021

The layout <N>n<G>g/<network>_b<batch>_<precision>_<run>.log of 2021 gives topology, batch size, precision and
repeat; a log's own text may give more. What is missing is asked for. Keys of --set and of a mapping file:
framework, version, experiment, parallelism, sample_ratio, topology, device, batch_size_per_device, precision,
num_classes, threads_per_device, repeat, warmup_iterations, network, dataset. A mapping file holds patterns of
file names:

\b
  "*/r100_*": {experiment: r100_emore, version: 0.3.4}
  "*/y1_*": {experiment: y1_emore, version: 0.3.4}

Methods: dlperf divides samples by seconds over all records after the warm-up; dlperf-2021 is the arithmetic
of the 2021 comparison. Each has its own folder, so no case mixes them.

Importing the same file again changes nothing. Exit code 2: nothing could be imported; 3: some files could
not, and are named on standard error."""


@click.command(epilog=_EPILOG)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option(
    "--dialect", default="auto", show_default=True, metavar="NAME", help="The program that wrote it."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting that the logs do not name."
)
@click.option(
    "--map", "map_file", type=click.Path(path_type=Path, dir_okay=False), help="Settings per file, as YAML."
)
@click.option("--method", type=click.Choice(METHODS), default="dlperf", show_default=True)
@click.option(
    "--results", type=click.Path(path_type=Path, file_okay=False), default=Path("results"), show_default=True
)
@click.option("--name", help="Folder in the results  [default: imported, or imported-dlperf-2021]")
@click.pass_context
def command(
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
    if bad:
        ctx.exit(EXIT_SOME_NOT_IMPORTED if good else EXIT_NOTHING_IMPORTED)


def _import_all(files: Sequence[Path | UserError], instructions: Instructions) -> tuple[int, int]:
    """Import them, report each, and ask for missing settings; how many runs were good and logs bad."""
    good = bad = 0
    questions: dict[str, list[str]] = {}
    with alone_in(instructions.sweep):
        for file in files:
            for outcome in (file,) if isinstance(file, UserError) else import_file(file, instructions):
                if isinstance(outcome, UserError):
                    bad += 1
                    _report(outcome, questions)
                else:
                    good += 1
                    _show(outcome)
    for question, names in questions.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        click.echo(f"dlperf: {names[0]}{more}: {question}", err=True)
    return good, bad


def _report(error: UserError, questions: dict[str, list[str]]) -> None:
    """Print an error at once; a question is asked once for all files at the end."""
    if isinstance(error, MissingSettings):
        questions.setdefault(error.question, []).append(error.name)
    else:
        click.echo(f"dlperf: {error}", err=True)


def _show(done: Done) -> None:
    """Print the result of one run of a log."""
    result = done.result
    if result.figures is not None:
        what = f"{result.figures.samples_per_sec:.2f} samples/s"
    else:
        what = f"{result.status.value}: {result.reason}"
    how = "imported" if done.is_new else "unchanged"
    click.echo(f"{how:<9} {done.source}: {what} -> {done.folder}")
    for warning in done.warnings:
        click.echo(f"dlperf: {done.source}: {warning}", err=True)


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


def _rules(path: Path) -> list[tuple[str, Facts]]:
    """Read the mapping file: pattern -> settings."""
    document = read_document(path, shown=str(path))
    if document.problems:
        raise SourceErrors(list(document.problems))
    rules = []
    for pattern, told in document.data.items():
        place = document.keys[(pattern,)]
        if not isinstance(told, dict):
            raise SourceErrors([place.problem(f"{pattern}: write the settings as {{key: value, ...}}")])
        problems = [
            document.keys[pattern, key].problem(unknown("key", key, KEYS)) for key in told if key not in KEYS
        ]
        problems += [
            document.values[pattern, key].problem(f"{key}: {wrong}")
            for key, value in told.items()
            if (wrong := _what_is_wrong(key, value))
        ]
        if problems:
            raise SourceErrors(problems)
        facts = facts_of_settings({key: str(value) for key, value in told.items()}, f"{path}:{place.line}")
        rules.append((pattern, facts))
    return rules
