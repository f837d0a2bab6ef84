"""`dlperf compare`: did it become slower?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import reduce, wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from dlperf.cli.tables import rendered
from dlperf.compare.matching import GUARDS
from dlperf.compare.output import (
    HEADINGS,
    NUMBERS,
    cells,
    exit_code,
    headline,
    noise_profile_line,
    shown,
    summary,
)
from dlperf.compare.sets import IMPROVEMENTS, MEASURED, REGRESSIONS, Verdict, compared_fields, read_result_set
from dlperf.compare.verdicts import (
    CaseVerdict,
    Comparison,
    Settings,
    compare,
    no_floor,
    qualified_floor,
    read_expected,
)
from dlperf.errors import UserError
from dlperf.files import write_atomically
from dlperf.plan.documents import unknown
from dlperf.results.cases import cell_name
from dlperf.results.noise_profile import NoiseProfile, default_noise_profile, read_noise_profile

R = TypeVar("R")

FORMATS = ("text", "md", "pr", "json", "junit", "github")

_OPTIONS = (
    click.option(
        "--margin",
        "margins",
        multiple=True,
        metavar="[METRIC=]PERCENT",
        help="Smallest change that counts, such as 2% (of samples/s) or step_seconds_p95=10%. Repeatable.  "
        "[default: 1 % of samples/s, 5 % of step p95, 2 % of peak memory]",
    ),
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        metavar="METRIC",
        help="Compare only samples_per_sec, step_seconds_p95 or peak_memory_bytes. Repeatable.",
    ),
    click.option(
        "--allow",
        multiple=True,
        type=click.Choice(GUARDS),
        help="Compare even if this differs, with a note. Repeatable.",
    ),
    click.option(
        "--expected",
        type=click.Path(path_type=Path, dir_okay=False),
        help="YAML file of known regressions, each with a reason and an expiry date.",
    ),
    click.option(
        "--qualified",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Noise profile of `dlperf qualify`.  [default: baselines/qualification.json, if any]",
    ),
    click.option("--strict", is_flag=True, help="Exit with code 4 if some cases are inconclusive."),
    click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True),
    click.option(
        "--write",
        "files",
        multiple=True,
        metavar="FORMAT=FILE",
        help="Also write this format to a file, such as junit=gate.xml. Repeatable.",
    ),
    click.option("--all", "everything", is_flag=True, help="Show every metric of every case."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What these options say; `files` are forms by the file that each is written to."""

    margins: tuple[str, ...]
    metrics: tuple[str, ...]
    allow: tuple[str, ...]
    expected: Path | None
    qualified: Path | None
    strict: bool
    form: str
    files: Mapping[Path, str]
    everything: bool

    def settings(self, *, compared: tuple[str, ...] = ()) -> Settings:
        """Settings of a comparison; UserError where an option is wrong."""
        by_name = {metric.name: metric for metric in MEASURED}
        found = _noise_profile(self.qualified)
        return Settings(
            noise_floor=qualified_floor(found) if found is not None else no_floor,
            notes=(noise_profile_line(found),) if found is not None else (),
            metrics=tuple(by_name[_known(name)] for name in dict.fromkeys(self.metrics)) or MEASURED,
            margins=dict(_margin(text) for text in self.margins),
            allow=self.allow,
            compared=compared,
            expected=read_expected(self.expected) if self.expected is not None else (),
        )

    def answer(self, findings: Comparison) -> int:
        """Print the findings, write them into the files, and give the exit code.

        Raises:
            UserError: a file cannot be written.
        """
        code = exit_code(findings, strict=self.strict)
        click.echo(self._text(findings, self.form, code=code), nl=False)
        for path, form in self.files.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, self._text(findings, form, code=code).encode())
            except OSError as error:
                why = f"{error.filename or path}: {error.strerror}"
                raise UserError(f"--write {form}={path}: cannot be written ({why})") from None
        return code

    def _text(self, findings: Comparison, form: str, *, code: int) -> str:
        from dlperf.compare import output as documents

        if form == "text":
            return findings_text(findings, everything=self.everything)
        made = {
            "md": documents.markdown,
            "pr": documents.comment,
            "junit": documents.junit,
            "github": documents.workflow_commands,
        }
        return made[form](findings) if form in made else documents.as_json(findings, exit_code=code)


def judging_options(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options above; they arrive as `judging`, a Judging."""
    names = {one.name for one in fields(Judging)}

    @wraps(function)
    def with_judging(*arguments: Any, **options: Any) -> R:
        given = {name: options.pop(name) for name in names}
        judging = Judging(**given | {"files": _wanted_files(given["files"])})
        return function(*arguments, judging=judging, **options)

    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), with_judging)


def _noise_profile(given: Path | None) -> NoiseProfile | None:

    path = given or default_noise_profile()
    return read_noise_profile(path) if path is not None else None


def _margin(text: str) -> tuple[str, float]:
    name, separator, value = text.rpartition("=")
    try:
        percent = float(value.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 < percent < 100:  # noqa: PLR2004 - percent
        raise UserError(f"--margin {text}: write a percentage, such as --margin 2% or samples_per_sec=2%")
    return _known(name) if separator else "samples_per_sec", percent / 100


def _known(name: str) -> str:

    names = [metric.name for metric in MEASURED]
    if name not in names:
        raise UserError(unknown("metric", name, names))
    return name


def _wanted_files(files: tuple[str, ...]) -> dict[Path, str]:
    """`--write FORMAT=FILE` as files and their forms; UserError before anything runs."""
    wanted: dict[Path, str] = {}
    for text in files:
        form, separator, name = text.partition("=")
        if not separator or not name or form not in FORMATS:
            raise UserError(f"--write {text}: write FORMAT=FILE with one of {', '.join(FORMATS)}")
        path = Path(name)
        if path in wanted:
            raise UserError(f"--write {text}: {name} is written as {wanted[path]} already; name another file")
        if path.is_dir():
            raise UserError(f"--write {text}: {name} is a folder; name a file")
        wanted[path] = form
    return wanted


_EPILOG = """\b
Examples:
  dlperf compare results/monday results/friday
  dlperf compare framework=mxnet==1.9.0 framework=mxnet==1.9.1 --in results/versions_cpu
  dlperf compare nightly results/today --format md
  dlperf compare nightly results/today --write junit=compare.xml --write md=summary.md

A side is a results folder, a baseline that `dlperf baseline save` made (its name or its file),
published:NAME, or key=value, which selects cases of the folder that --in names.

Exit codes: 0 no regression, 1 regression, 2 wrong input, 3 cases missing or not comparable,
4 (with --strict) inconclusive cases."""


@click.command(epilog=_EPILOG)
@click.argument("baseline")
@click.argument("candidate")
@click.option(
    "--in",
    "inside",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder that key=value selects from.",
)
@judging_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    baseline: str,
    candidate: str,
    inside: Path,
    judging: Judging,
) -> None:
    """Compare CANDIDATE with BASELINE case by case: slower, faster, the same, or inconclusive."""
    settings = judging.settings(compared=compared_fields(baseline, candidate))
    sides = (read_result_set(text, inside=inside) for text in (baseline, candidate))
    ctx.exit(judging.answer(compare(*sides, settings=settings)))


_STYLES = {
    **dict.fromkeys(REGRESSIONS, "bold red"),
    **dict.fromkeys(IMPROVEMENTS, "green"),
    Verdict.MISSING: "yellow",
    Verdict.NOT_COMPARABLE: "yellow",
}


def findings_text(findings: Comparison, *, everything: bool) -> str:
    """The table of a comparison, its notes, and the answer on the last line."""
    return "\n".join(_lines(findings, everything=everything)) + "\n"


def _lines(findings: Comparison, *, everything: bool) -> Iterator[str]:
    yield f"{findings.candidate} against {findings.baseline}"
    rows = findings.rows if everything else shown(findings)
    if rows:
        yield ""
        yield rendered(_table(rows)).rstrip()
    for one in findings.new:
        yield f"without a baseline: {one.case.framework} {one.case.version} {cell_name(one.case)}"
    for note in findings.notes:
        yield f"note: {note}"
    yield ""
    yield summary(findings)
    yield headline(findings)


def _table(rows: tuple[CaseVerdict, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    content = [cells(row) for row in rows]
    kept = [place for place in range(len(HEADINGS)) if any(row[place] for row in content)]
    for place in kept:
        table.add_column(HEADINGS[place], justify="right" if HEADINGS[place] in NUMBERS else "left")
    for row, texts in zip(rows, content, strict=True):
        # Text, not markup: a reason may hold brackets.
        table.add_row(*(Text(texts[place]) for place in kept), style=_STYLES.get(row.verdict))
    return table
