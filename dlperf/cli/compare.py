"""`dlperf compare`: did it become slower?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from dlperf.cli.measuring import changes
from dlperf.cli.options import FILE, NOISE_PROFILE, PATH, SELECTION, Choice, format_option, gathered
from dlperf.cli.terminal import echo, table, wrapped, write_data, write_file
from dlperf.compare import output
from dlperf.compare.matching import GUARDS
from dlperf.compare.sets import (
    IMPROVEMENTS,
    MEASURED,
    REGRESSIONS,
    ResultSet,
    Verdict,
    compared_fields,
    read_result_set,
)
from dlperf.compare.verdicts import (
    Comparison,
    Settings,
    compare,
    read_expected,
)
from dlperf.errors import UserError
from dlperf.plan.documents import unknown
from dlperf.plan.plan import PlannedCase, PlanStatus
from dlperf.plan.selection import Predicate, selection
from dlperf.results.cases import cell_name
from dlperf.results.measurement import is_measurement
from dlperf.results.noise_profile import default_noise_profile, read_noise_profile
from dlperf.wording import plural

FORMATS = ("text", "md", "pr", "json", "junit", "github")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How to compare, and where the answer goes; `files` holds the format of each file."""

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
        path = self.qualified or default_noise_profile()
        found = read_noise_profile(path) if path is not None else None
        margins = dict(_margin(text) for text in self.margins)
        return Settings(
            noise_profile=found,
            notes=(output.noise_profile_line(found),) if found is not None else (),
            metrics=tuple(by_name[_known(name)] for name in dict.fromkeys(self.metrics)) or MEASURED,
            margins=margins,
            named=(*self.metrics, *margins),
            allow=self.allow,
            compared=compared,
            expected=read_expected(self.expected) if self.expected is not None else (),
        )

    def answer(self, findings: Comparison) -> int:
        """Print the findings, write them into the files, and give the exit code.

        UserError where a file cannot be written.
        """
        code = output.exit_code(findings, strict=self.strict)
        if self.form == "text":
            echo(*findings_lines(findings, everything=self.everything))
        else:
            write_data(self._text(findings, self.form, code=code))
        for path, form in self.files.items():
            try:
                write_file(path, self._text(findings, form, code=code).encode())
            except OSError as error:
                why = f"{error.filename or path}: {error.strerror}"
                raise UserError(f"--write {form}={path}: cannot be written ({why})") from None
        return code

    def _text(self, findings: Comparison, form: str, *, code: int) -> str:
        if form == "text":
            return "\n".join(findings_lines(findings, everything=self.everything)) + "\n"
        if form == "json":
            return output.as_json(findings, exit_code=code)
        made = {
            "md": output.markdown,
            "pr": output.comment,
            "junit": output.junit,
            "github": output.workflow_commands,
        }
        return made[form](findings)


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


JUDGING = gathered(
    "judging",
    Judging,
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
        help="Compare only this metric, such as step_seconds_p95 or peak_anonymous_bytes. Repeatable.",
    ),
    click.option(
        "--allow",
        multiple=True,
        type=Choice(GUARDS),
        metavar="FIELD",
        help=f"Compare even if this differs, with a note: {', '.join(GUARDS)}. Repeatable.",
    ),
    click.option(
        "--expected", type=FILE, help="YAML file of known regressions, each with a reason and an expiry date."
    ),
    NOISE_PROFILE,
    click.option("--strict", is_flag=True, help="Exit with code 4 if some cases are inconclusive."),
    format_option(*FORMATS),
    click.option(
        "--write",
        "files",
        multiple=True,
        metavar="FORMAT=FILE",
        callback=lambda _context, _option, files: _wanted_files(files),
        help="Also write this format to a file, such as junit=gate.xml. Repeatable.",
    ),
    click.option("--all", "everything", is_flag=True, help="Show every metric of every case."),
)

_EPILOG = """\b
Examples:
  dlperf compare results/monday results/friday
  dlperf compare framework=mxnet==1.9.0 framework=mxnet==1.9.1 --in results/versions_cpu
  dlperf compare nightly results/today --common --only framework=pytorch --format md
  dlperf compare nightly results/today --write junit=compare.xml --write md=summary.md

BASELINE and CANDIDATE are a results folder, a baseline of `dlperf baseline save` (its name or its file),
published:NAME, or KEY=VALUE, which selects cases of the folder that --in names.

Speeds of different sessions have a verdict only where `dlperf qualify` measured the noise between sessions.
Peak memory is reported; it is a regression only where --metric or --margin names it.

Two measurements of nodes (`dlperf cluster measure`), or a baseline of machines and one, are compared too.

Exit codes: 0 no regression, 1 regression, 2 wrong input, 3 cases missing or not comparable,
4 no case has a verdict, or (with --strict) some have none."""


@click.command(epilog=_EPILOG)
@click.argument("baseline")
@click.argument("candidate")
@click.option(
    "--in", "inside", type=PATH, default=Path("results"), help="Folder that KEY=VALUE selects from."
)
@SELECTION
@click.option("--common", is_flag=True, help="Leave out cases that only one side has.")
@JUDGING
@click.pass_context
def command(
    ctx: click.Context,
    *,
    baseline: str,
    candidate: str,
    inside: Path,
    expression: str | None,
    only: tuple[str, ...],
    exclude: tuple[str, ...],
    common: bool,
    judging: Judging,
) -> None:
    """Compare CANDIDATE with BASELINE case by case: slower, faster, the same, or inconclusive."""
    if is_measurement(Path(candidate)):
        ctx.exit(changes(baseline, Path(candidate), judging.margins, form=judging.form))
    settings = judging.settings(compared=compared_fields(baseline, candidate))
    is_meant = selection(expression=expression, only=only, exclude=exclude)
    sides = [
        _selected(read_result_set(text, inside=inside), is_meant, option=text)
        for text in (baseline, candidate)
    ]
    findings = compare(*sides, settings=settings)
    ctx.exit(judging.answer(findings.common if common else findings))


def _selected(side: ResultSet, is_meant: Predicate, *, option: str) -> ResultSet:
    """The cases of a side that -k, --only and --exclude leave; UserError where that is none of some."""
    chosen = [one for one in side.cases if is_meant(PlannedCase(case=one.case, status=PlanStatus.RUNNABLE))]
    if side.cases and not chosen:
        raise UserError(
            f"nothing selected: none of the {plural(len(side.cases), 'case')} of {option} matches"
        )
    return side.only(chosen)


_STYLES = {
    **dict.fromkeys(REGRESSIONS, "bold red"),
    **dict.fromkeys(IMPROVEMENTS, "green"),
    Verdict.MISSING: "yellow",
    Verdict.NOT_COMPARABLE: "yellow",
}


def findings_lines(findings: Comparison, *, everything: bool) -> Iterator[str]:
    """The table of a comparison, its notes, and the answer on the last line."""
    yield wrapped(f"{findings.candidate} against {findings.baseline}")
    rows = findings.rows if everything else output.shown(findings)
    if rows:
        yield ""
        styles = [_STYLES.get(row.verdict) for row in rows]
        yield table(output.HEADINGS, map(output.cells, rows), right=output.NUMBERS, styles=styles)
    for one in findings.new:
        yield wrapped(f"without a baseline: {one.case.framework} {one.case.version} {cell_name(one.case)}")
    for note in findings.notes:
        yield wrapped(f"note: {note}")
    yield ""
    yield wrapped(output.summary(findings))
    yield wrapped(output.headline(findings))
