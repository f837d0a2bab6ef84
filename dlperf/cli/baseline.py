"""`dlperf baseline`: results kept under a name, as one small file that git can hold."""

import re
from pathlib import Path

import click

from dlperf.cli.options import names_of, require_known
from dlperf.cli.terminal import echo, fold, say, table, wrapped, write_file
from dlperf.compare.output import value
from dlperf.compare.sets import SAMPLES_PER_SECOND, ResultSet, read_baseline, read_result_set, selected
from dlperf.errors import UserError
from dlperf.files import write_document
from dlperf.layout import NOISE_PROFILE_NAME, sweep_folders
from dlperf.results.cases import cell_name
from dlperf.results.measurement import (
    ABILITIES,
    MachineBaseline,
    is_machine_baseline,
    measurements_below,
    read_machine_baseline,
    read_measurement,
)
from dlperf.results.outliers import machine_baseline
from dlperf.statistics.basic import quantile
from dlperf.wording import plural

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_folder = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("baselines"),
    help="Folder of the baselines.",
)


_EPILOG = """\b
Examples:
  dlperf baseline save nightly results/today
  dlperf baseline save v1.9.0 results/versions_cpu --only framework=mxnet==1.9.0
  dlperf baseline save h100 results/measurements/gpus --only node=gpu1,gpu2,gpu5
  dlperf baseline list
  dlperf baseline show nightly"""


@click.group(epilog=_EPILOG)
def command() -> None:
    """Save results under a name; list and show what is saved."""


@command.command()
@click.argument("name")
@click.argument("results")
@click.option(
    "--only",
    metavar="KEY=VALUE",
    help="Keep only these cases, such as framework=mxnet==1.9.0; of measurements these nodes: node=a,b.",
)
@click.option("--replace", is_flag=True, help="Replace an existing baseline of this name.")
@_folder
def save(*, name: str, results: str, only: str | None, replace: bool, folder: Path) -> None:
    """Save the figures of every run under RESULTS as the baseline NAME.

    The file holds cases and figures, no logs. Commit it with the code that it is the baseline of. From
    measurements of good nodes (`dlperf cluster measure`) it holds what such machines can do.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r}: the name of a baseline holds letters, digits and . _ + -")
    path = folder / f"{name}.json"
    if path.exists() and not replace:
        raise UserError(f"{path}: a baseline of this name exists; --replace overwrites it")
    measurements = _measurements(Path(results))
    if measurements:
        write_document(path, _of_machines(name, measurements, only))
        echo(str(path))
        return
    side = read_result_set(results, inside=Path("results"), baselines=folder)
    side = selected(side, only) if only is not None else side
    if not any(case.runs for case in side.cases):
        raise UserError(f"{results}: no successful run there, so nothing to compare with later")
    content = side.model_copy(update={"label": name}).model_dump_json(indent=1, exclude_none=True)
    write_file(path, (content + "\n").encode())
    echo(str(path))


def _measurements(path: Path) -> list[Path]:
    """The files of measurements in a folder that holds no results of sweeps."""
    if not path.exists() or (path.is_dir() and sweep_folders(path)):
        return []
    return measurements_below(path)


def _of_machines(name: str, files: list[Path], only: str | None) -> MachineBaseline:
    key, _, names = (only or "node=").partition("=")
    if key != "node":
        raise UserError(f"--only {only}: of measurements only nodes can be chosen, such as node=gpu1,gpu2")
    nodes = names_of(names)
    measurements = [read_measurement(file) for file in files]
    known = sorted({node.name for one in measurements for node in one.nodes})
    require_known("--only", "node", nodes, known)
    return machine_baseline(name, measurements, nodes=nodes)


@command.command(name="list")
@_folder
def list_(*, folder: Path) -> None:
    """List the baselines: name, day, cases, runs."""
    paths = sorted(path for path in folder.glob("*.json") if path.name != NOISE_PROFILE_NAME)
    if not paths:
        say(f"no baselines in {folder}; create one: dlperf baseline save NAME RESULTS")
    for path in paths:
        try:
            machines = read_machine_baseline(path) if is_machine_baseline(path) else None
            described = _described(read_baseline(path)) if machines is None else _machines_described(machines)
        except UserError as error:
            say(f"dlperf: skipped {error}")
            continue
        echo(f"{path.stem}  {described}")


@command.command()
@click.argument("name")
@_folder
def show(*, name: str, folder: Path) -> None:
    """Show the cases of the baseline NAME with their figures."""
    path = folder / f"{name}.json"
    if is_machine_baseline(path):
        _show_machines(read_machine_baseline(path))
        return
    side = read_result_set(name, inside=Path("results"), baselines=folder)
    echo(f"{side.label}  {_described(side)}")
    rows = []
    for one in side.cases:
        figure = one.figure(SAMPLES_PER_SECOND)
        row = (
            f"{one.case.framework} {one.case.version}",
            cell_name(one.case),
            one.status.value,
            "" if figure is None else value(SAMPLES_PER_SECOND, figure),
            str(len(one.runs)),
            one.hardware,
        )
        rows.append(row)
    headings = ("framework", "case", "status", "samples/s", "runs", "hardware")
    same, kept, cells = fold(headings, rows, ("status", "hardware"))
    echo(
        *([wrapped(f"every case: {same}")] if same else []),
        "",
        table(kept, cells, right=("samples/s", "runs")),
    )


def _machines_described(machines: MachineBaseline) -> str:
    kinds = plural(len({one.hardware for one in machines.machines}), "kind of machine", "kinds of machines")
    return f"{machines.created_at[:10]}, {kinds}, PyTorch {machines.engine}, dlperf {machines.dlperf_version}"


def _show_machines(machines: MachineBaseline) -> None:
    echo(f"{machines.label}  {_machines_described(machines)}", "")
    rows = []
    for one in machines.machines:
        ability = ABILITIES[one.metric]
        figures = (quantile(one.values, 0.5), min(one.values), max(one.values))
        title = f"link {ability.title}" if one.metric.startswith("link_") else ability.title
        rows.append((one.hardware, title, str(len(one.values)), *map(ability.in_words, figures)))
    numbers = ("good ones", "median", "smallest", "largest")
    echo(table(("hardware", "figure", *numbers), rows, right=numbers))


def _described(side: ResultSet) -> str:
    runs = sum(len(case.runs) for case in side.cases)
    day = side.created_at[:10] if side.created_at else "day not known"
    return f"{day}, {plural(len(side.cases), 'case')}, {plural(runs, 'run')}, dlperf {side.dlperf_version}"
