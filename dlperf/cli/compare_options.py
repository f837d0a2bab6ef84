"""What `compare` and `gate` share: the options that decide a verdict, and the forms of the output."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dlperf.compare.guards import GUARDS
from dlperf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.compare.comparing import Settings
    from dlperf.compare.finding import Findings
    from dlperf.results.qualification import Qualification

F = TypeVar("F", bound="Callable[..., Any]")

FORMATS = ("text", "md", "pr", "json", "junit", "github")

_OPTIONS = (
    click.option(
        "--margin",
        "margins",
        multiple=True,
        metavar="[METRIC=]PERCENT",
        help="The smallest change that counts, such as 2% or step_seconds_p95=10%. Repeatable.  "
        "[default: 1 % of samples/s, 5 % of step p95, 2 % of peak memory]",
    ),
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        metavar="METRIC",
        help="Compare this metric alone: samples_per_sec, step_seconds_p95 or peak_memory_bytes. Repeatable.",
    ),
    click.option(
        "--allow",
        multiple=True,
        type=click.Choice(GUARDS),
        help="Compare although this differs, and say so. Repeatable.",
    ),
    click.option(
        "--expected",
        type=click.Path(path_type=Path, dir_okay=False),
        help="YAML file of known regressions, each with a reason and a last day.",
    ),
    click.option(
        "--qualified",
        type=click.Path(path_type=Path, dir_okay=False),
        help="What `dlperf qualify` found here.  [default: baselines/qualification.json where it is]",
    ),
    click.option("--strict", is_flag=True, help="Exit code 4 where some cases could not be told."),
    click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True),
    click.option(
        "--write",
        "files",
        multiple=True,
        metavar="FORMAT=FILE",
        help="Write this form into a file too, such as junit=gate.xml. Repeatable.",
    ),
    click.option("--all", "everything", is_flag=True, help="Show every metric of every case in the table."),
)


def judging_options(function: F) -> F:
    """Give a command the options above."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), function)


def settings_from(
    *,
    margins: tuple[str, ...],
    metrics: tuple[str, ...],
    allow: tuple[str, ...],
    expected: Path | None,
    qualified: Path | None,
    compared: tuple[str, ...] = (),
) -> Settings:
    """The options as settings of a comparison; UserError where one is wrong."""
    from dlperf.compare.comparing import Settings, no_floor, qualified_floor
    from dlperf.compare.expected import read_expected
    from dlperf.compare.metrics import MEASURED
    from dlperf.compare.words import qualification_line

    by_name = {metric.name: metric for metric in MEASURED}
    found = _qualification(qualified)
    return Settings(
        noise_floor=qualified_floor(found) if found is not None else no_floor,
        notes=(qualification_line(found),) if found is not None else (),
        metrics=tuple(by_name[_known(name)] for name in dict.fromkeys(metrics)) or MEASURED,
        margins=dict(_margin(text) for text in margins),
        allow=allow,
        compared=compared,
        expected=read_expected(expected) if expected is not None else (),
    )


def _qualification(given: Path | None) -> Qualification | None:
    from dlperf.results.qualification import read_qualification, usual_qualification

    path = given or usual_qualification()
    return read_qualification(path) if path is not None else None


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
    from dlperf.compare.metrics import MEASURED
    from dlperf.plan.validation import unknown

    names = [metric.name for metric in MEASURED]
    if name not in names:
        raise UserError(unknown("metric", name, names))
    return name


def wanted_files(files: tuple[str, ...]) -> dict[Path, str]:
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


def tell(findings: Findings, *, form: str, files: dict[Path, str], code: int, everything: bool) -> None:
    """Print the findings, and write them into the files; UserError where one cannot be written."""
    click.echo(_text(findings, form, code=code, everything=everything), nl=False)
    for path, file_form in files.items():
        text = _text(findings, file_form, code=code, everything=everything)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            why = f"{error.filename or path}: {error.strerror}"
            raise UserError(f"--write {file_form}={path}: cannot be written ({why})") from None


def _text(findings: Findings, form: str, *, code: int, everything: bool) -> str:
    from dlperf.compare import documents

    if form == "text":
        from dlperf.cli.compare_view import findings_text

        return findings_text(findings, everything=everything)
    made = {
        "md": documents.markdown,
        "pr": documents.comment,
        "junit": documents.junit,
        "github": documents.workflow_commands,
    }
    return made[form](findings) if form in made else documents.as_json(findings, exit_code=code)
