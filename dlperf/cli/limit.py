"""`dlperf limit`: find the largest batch or the most classes that train."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from dlperf.adapters.registry import load_adapters
from dlperf.cli.run import RunOptions, run_sweep, show, warn_of_misspelt_variables
from dlperf.cli.selection import cluster_of, default_folder, interruptible, plan_here
from dlperf.errors import UserError
from dlperf.plan.cluster import Cluster
from dlperf.plan.documents import Value, find_file
from dlperf.plan.load import Setting, checked_sweep, limit_document, value_setting
from dlperf.plan.plan import Plan

_EPILOG = """\b
Examples:
  dlperf limit y1_emore --axis batch_size --memory 2GiB
  dlperf limit y1_emore --axis num_classes --parallelism model,partial_fc --topology 1n1g,1n2g \\
      --batch-size 8 --memory 2GiB --granularity 2000
  dlperf limit r100_emore --axis batch_size --framework oneflow,mxnet --topology 1n8g
  dlperf limit quickstart --axis batch_size --framework pytorch --memory 1GiB --json

EXPERIMENT is a path, the name of a file in ./experiments, or an experiment that ships with dlperf.

Each value is tried by a short training run in fresh processes; the result is confirmed by a run of full
length, then measured. An interrupted search replays its probes. On a CPU, --memory replaces the memory of
a GPU; without it the search would use up the machine's memory. docs/limits.md says what it counts.

Exit codes: 0 all limits found and measured, 2 wrong input, 3 some limits not found or not measured,
5 infrastructure, 130 Ctrl-C, 143 SIGTERM."""

_AXES = {"batch_size": "batch_size_per_device", "num_classes": "num_classes"}


@click.command(epilog=_EPILOG)
@click.argument("experiment")
@click.option("--axis", type=click.Choice([*_AXES]), required=True, help="The quantity to maximise.")
@click.option(
    "--framework",
    metavar="A,B",
    help="Frameworks to search: NAME or NAME==VERSION.  [default: all installed]",
)
@click.option(
    "--topology", metavar="A,B", default="1n1g", show_default=True, help="Topologies to search, such as 2n8g."
)
@click.option(
    "--parallelism", metavar="A,B", default="data", show_default=True, help="Any of data, model, partial_fc."
)
@click.option(
    "--sample-ratio", type=float, help="Sample ratio of partial_fc, above 0 and at most 1.  [default: 0.1]"
)
@click.option("--batch-size", type=int, help="Samples per device while searching for classes.  [default: 64]")
@click.option(
    "--num-classes", type=int, help="Classes while searching for batch sizes.  [default: the experiment's]"
)
@click.option(
    "--granularity",
    type=int,
    help="Step between tried values.  [default: 1 sample per device, or 1000 classes]",
)
@click.option(
    "--upper",
    type=int,
    help="Largest value to try.  [default: 65536 samples per device, or 100000000 classes]",
)
@click.option("--iterations", type=int, help="Training iterations per probe.  [default: 10]")
@click.option("--memory", metavar="SIZE", help="Memory budget per CPU device, such as 2GiB.")
@click.option("--precision", help="Precision: fp32, fp16 or bf16.  [default: fp32]")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Device to train on.  [default: auto]"
)
@click.option("--repeats", type=int, default=1, show_default=True, help="Measured runs at the limit.")
@click.option(
    "-S",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the sweep, such as measure.measured_iterations=50. Repeatable.",
)
@click.option("--cluster", metavar="NAME|FILE", help="Run on the nodes of this cluster file.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="Where results go.  [default: results/limit_EXPERIMENT_AXIS]",
)
@click.option("--retry-failed", is_flag=True, help="Repeat failed probes and runs.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the command of every process; run nothing.")
@click.option("--no-wait", is_flag=True, help="Fail at once if another dlperf is measuring here.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    settings: tuple[str, ...],
    cluster: str | None,
    results: Path | None,
    retry_failed: bool,
    dry_run: bool,
    no_wait: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the largest batch size or number of classes of EXPERIMENT that trains, and measure it."""
    nodes = cluster_of(cluster)
    whole = _plan(options, settings, nodes)
    folder = results or default_folder(whole)
    if dry_run:
        show(whole, folder, nodes)
        return
    warn_of_misspelt_variables()

    run_options = RunOptions(
        cluster=nodes,
        retry_failed=retry_failed,
        wait=not no_wait,
    )
    again = shlex.join(["dlperf", *(word for word in sys.argv[1:] if word != "--retry-failed")])
    with interruptible(folder):
        code = run_sweep(
            whole, folder, selected=lambda plan: plan, run_options=run_options, as_json=as_json, again=again
        )
    ctx.exit(code)


def _plan(options: dict[str, Any], settings: tuple[str, ...], cluster: Cluster | None) -> Plan:

    here = Path.cwd()
    experiment, axis = options["experiment"], options["axis"]
    adapters = load_adapters()
    given = _settings(options, frameworks=[*adapters])
    document = limit_document({"experiment": experiment, **_nested(given)})
    stem = find_file("experiment", experiment, folders=(here,)).stem
    loaded = checked_sweep(
        document,
        path=here / "sweeps" / f"limit_{stem}_{axis}.yaml",
        adapters=adapters,
        settings=(*given, *map(value_setting, settings)),
        folder=here,
    )
    return plan_here(loaded, adapters=adapters, cluster=cluster)


def _settings(options: dict[str, Any], *, frameworks: list[str]) -> tuple[Setting, ...]:
    """The options as keys of a sweep; problems about one name the option."""
    axis = _AXES[options["axis"]]
    other = {"batch_size": "num_classes", "num_classes": "batch_size"}[options["axis"]]
    if options[options["axis"]] is not None:
        option = f"--{options['axis'].replace('_', '-')}"
        raise UserError(f"{option}: is the quantity being searched for; remove it, or use --axis {other}")
    parallelisms = _listed(options["parallelism"])
    ratio = options["sample_ratio"]
    if ratio is None and "partial_fc" in parallelisms:
        ratio = 0.1
    batch = options["batch_size"]
    if batch is None and axis == "num_classes":
        batch = 64
    keys: list[tuple[tuple[str, ...], Value, str]] = [
        ((axis,), "max", f"--axis {options['axis']}"),
        (("frameworks",), _listed(options["framework"]) or tuple(frameworks), "--framework"),
        (("topology",), _listed(options["topology"]), "--topology"),
        (("parallelism",), parallelisms, "--parallelism"),
        (("sample_ratio",), ratio, "--sample-ratio"),
        (("batch_size_per_device",), batch, "--batch-size"),
        (("num_classes",), options["num_classes"], "--num-classes"),
        (("search", axis, "granularity"), options["granularity"], "--granularity"),
        (("search", axis, "upper"), options["upper"], "--upper"),
        (("search", "iterations"), options["iterations"], "--iterations"),
        (("memory",), options["memory"], "--memory"),
        (("precision",), options["precision"], "--precision"),
        (("device",), options["device"], "--device"),
        (("measure", "repeats"), options["repeats"], "--repeats"),
    ]
    return tuple(
        Setting(path=path, value=value, label=label) for path, value, label in keys if value is not None
    )


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _nested(settings: tuple[Setting, ...]) -> dict[str, Value]:
    """The settings as a file would hold them."""
    content: dict[str, Any] = {}
    for setting in settings:
        inner = content
        for part in setting.path[:-1]:
            inner = inner.setdefault(part, {})
        inner[setting.path[-1]] = setting.value
    return content
