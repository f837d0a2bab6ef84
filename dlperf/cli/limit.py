"""`dlperf limit`: find the largest batch or the most classes that train."""

import json
from pathlib import Path
from typing import Any

import click

from dlperf.adapters.registry import load_adapters
from dlperf.cli import completing, options
from dlperf.cli.run import run_sweep, show
from dlperf.errors import UserError
from dlperf.plan.case import SEARCHED_AXES
from dlperf.plan.cluster import Cluster
from dlperf.plan.documents import Value, find_file, parse_document
from dlperf.plan.load import Setting, checked_sweep, value_setting
from dlperf.plan.plan import Plan

_EPILOG = """\b
Examples:
  dlperf limit y1_emore --axis batch_size --memory 2GiB
  dlperf limit y1_emore --axis num_classes --parallelism model,partial_fc --topology 1n1g,1n2g \\
      --batch-size 8 --memory 2GiB --granularity 2000
  dlperf limit r100_emore --axis batch_size --framework oneflow,mxnet --topology 1n8g
  dlperf limit quickstart --axis batch_size --framework pytorch --memory 1GiB --json

EXPERIMENT is a path, the name of a file in ./experiments, or an experiment that ships with dlperf.

Each value is tried in a short training run with fresh processes. A run of full length confirms the result
and measures it. An interrupted search replays its probes. On a CPU, --memory stands in for the memory of a
GPU; without it the search would use up the memory of the machine. `dlperf docs limits` says what counts.

Exit codes: 0 all limits found and measured, 2 wrong input, 3 some limits not found or not measured,
5 infrastructure, 130 Ctrl-C, 143 SIGTERM."""

_AXES = dict(zip(("batch_size", "num_classes"), SEARCHED_AXES, strict=True))


@click.command(epilog=_EPILOG)
@click.argument("experiment", shell_complete=completing.files("experiment"))
@click.option("--axis", type=options.Choice([*_AXES]), required=True, help="What to maximise.")
@click.option(
    "--framework",
    metavar="A,B",
    help="Frameworks to search: NAME or NAME==VERSION.  [default: every one with a loop of its own]",
)
@click.option("--topology", metavar="A,B", default="1n1g", help="Topologies to search, such as 2n8g.")
@click.option("--parallelism", metavar="A,B", default="data", help="Any of data, model, partial_fc.")
@click.option(
    "--sample-ratio",
    metavar="RATIO",
    type=float,
    help="Sample ratio of partial_fc, above 0 and at most 1.  [default: 0.1]",
)
@click.option(
    "--batch-size", type=options.NUMBER, help="Samples per device while searching for classes.  [default: 64]"
)
@click.option(
    "--num-classes",
    type=options.NUMBER,
    help="Number of classes while searching for batch sizes.  [default: the experiment's]",
)
@click.option(
    "--granularity",
    type=options.NUMBER,
    help="Step between tried values.  [default: 1 sample per device, or 1000 classes]",
)
@click.option(
    "--upper",
    type=options.NUMBER,
    help="Largest value to try.  [default: 65536 samples per device, or 100000000 classes]",
)
@click.option("--iterations", type=options.NUMBER, help="Training iterations per probe.  [default: 10]")
@click.option("--memory", metavar="SIZE", help="Memory budget per CPU device, such as 2GiB.")
@click.option("--precision", metavar="NAME", help="fp32, fp16 or bf16.  [default: fp32]")
@click.option("--device", type=options.DEVICE_CHOICE, help="Device to train on.  [default: auto]")
@click.option("--repeats", type=options.NUMBER, default=1, help="Measured runs at the limit.")
@options.SETTINGS
@options.CLUSTER
@options.results_option("results/limit_EXPERIMENT_AXIS")
@options.DRY_RUN
@options.running_options(options.RETRY_FAILED)
@options.JSON
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    settings: tuple[str, ...],
    cluster_name: str | None,
    results: Path | None,
    dry_run: bool,
    run_options: options.RunOptions,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the largest batch size or number of classes of EXPERIMENT that trains, and measure it."""
    cluster = options.cluster_of(cluster_name)
    whole = _plan(given, settings, cluster)
    folder = results or options.default_folder(whole)
    if dry_run:
        show(whole, folder, cluster, run_options)
        return
    ctx.exit(run_sweep(whole, folder, cluster, run_options, as_json=as_json))


def _plan(given: dict[str, Any], settings: tuple[str, ...], cluster: Cluster | None) -> Plan:
    here = Path.cwd()
    experiment, axis = given["experiment"], given["axis"]
    adapters = load_adapters()
    own_loops = [name for name, adapter in adapters.items() if adapter.source is None]
    laid_over = _settings(given, frameworks=own_loops)
    stem = find_file("experiment", experiment, folders=(here,)).stem
    text = json.dumps({"experiment": experiment, **_nested(laid_over)}, indent=2)  # which is YAML
    loaded = checked_sweep(
        parse_document(f"# Made by dlperf limit.\n{text}\n", shown="dlperf limit"),
        path=here / "sweeps" / f"limit_{stem}_{axis}.yaml",
        adapters=adapters,
        settings=(*laid_over, *map(value_setting, settings)),
        folder=here,
    )
    return options.plan_here(loaded, adapters=adapters, cluster=cluster)


def _settings(given: dict[str, Any], *, frameworks: list[str]) -> tuple[Setting, ...]:
    """The options as keys of a sweep; problems about one name the option."""
    axis = _AXES[given["axis"]]
    other = {"batch_size": "num_classes", "num_classes": "batch_size"}[given["axis"]]
    if given[given["axis"]] is not None:
        option = f"--{given['axis'].replace('_', '-')}"
        raise UserError(f"{option}: is the quantity being searched for; remove it, or use --axis {other}")
    parallelisms = options.names_of(given["parallelism"])
    defaults = {
        "sample_ratio": 0.1 if "partial_fc" in parallelisms else None,
        "batch_size": 64 if axis == "num_classes" else None,
    }
    given = given | {name: value for name, value in defaults.items() if given[name] is None}
    keys: list[tuple[tuple[str, ...], Value, str]] = [
        ((axis,), "max", f"--axis {given['axis']}"),
        (("frameworks",), options.names_of(given["framework"]) or tuple(frameworks), "--framework"),
        (("topology",), options.names_of(given["topology"]), "--topology"),
        (("parallelism",), parallelisms, "--parallelism"),
        (("sample_ratio",), given["sample_ratio"], "--sample-ratio"),
        ((_AXES["batch_size"],), given["batch_size"], "--batch-size"),
        (("num_classes",), given["num_classes"], "--num-classes"),
        (("search", axis, "granularity"), given["granularity"], "--granularity"),
        (("search", axis, "upper"), given["upper"], "--upper"),
        (("search", "iterations"), given["iterations"], "--iterations"),
        (("memory",), given["memory"], "--memory"),
        (("precision",), given["precision"], "--precision"),
        (("device",), given["device"], "--device"),
        (("measure", "repeats"), given["repeats"], "--repeats"),
    ]
    return tuple(
        Setting(path=path, value=value, label=label) for path, value, label in keys if value is not None
    )


def _nested(settings: tuple[Setting, ...]) -> dict[str, Value]:
    """The settings as a sweep file would hold them."""
    content: dict[str, Any] = {}
    for setting in settings:
        inner = content
        for part in setting.path[:-1]:
            inner = inner.setdefault(part, {})
        inner[setting.path[-1]] = setting.value
    return content
