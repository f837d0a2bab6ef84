"""`dlperf init` and `dlperf docs`: where a new user begins."""

import os
from pathlib import Path

import click

from dlperf.cli.options import PATH
from dlperf.cli.terminal import echo, write_data, write_file
from dlperf.errors import UserError
from dlperf.files import shipped_folder
from dlperf.plan.documents import unknown

_SWEEP = """\
# What is compared, one key per line; `dlperf docs sweeps` lists all of them, and says how an editor describes
# each. A key with a list becomes an axis of the grid: every combination is one case. Try it:
#   dlperf plan {name}        what would run
#   dlperf run {name}         train it; the same command resumes
#   dlperf report results/{name} --out report.md
experiment: {name} # experiments/{name}.yaml
frameworks: [mxnet==1.9.1, pytorch==2.13.0] # `dlperf list versions` shows all; the first is the baseline
topology: 1n1g # nodes and devices per node; [1n1g, 1n2g] compares one device with two
parallelism: data # or model, or partial_fc with `sample_ratio: 0.1`
batch_size_per_device: 8 # or `max`: search for the largest that trains
device: cpu # or cuda; auto takes a GPU where there is one
threads_per_device: 1 # the same for every framework, or the figures could not be compared
measure:
  warmup_iterations: 2 # timed, kept, not counted
  measured_iterations: 8
  repeats: 5 # runs per case, in turns; intervals need several
limits: {{time: 10m, stall: 5m}} # a run that takes longer, or prints nothing for so long, is ended
"""

_EXPERIMENT = """\
# What is trained, the same in every framework; `dlperf docs workloads` describes the networks and the losses.
network: mobilefacenet # or iresnet18, iresnet34, iresnet50, iresnet100
head: GDC # how a map becomes an embedding; IResNets take E or FC
embedding_size: 128
dataset: synthetic faces # a name for tables; images are made by dlperf
num_classes: 500
loss: {kind: arcface, scale: 64, m2: 0.5} # or cosface with m3, combined, softmax
optimizer: {kind: sgd, momentum: 0.9, weight_decay: 0.0005}
schedule: {learning_rate: 0.1}
classifier_init_std: 0.01
"""

_INIT_EPILOG = """\b
Examples:
  dlperf init
  dlperf init faces --folder benchmarks"""


@click.command(epilog=_INIT_EPILOG)
@click.argument("name", default="mine")
@click.option("--folder", type=PATH, default=Path(), help="Where sweeps/ and experiments/ go.")
def init(*, name: str, folder: Path) -> None:
    """Write a sweep and an experiment NAME, with comments, that run on any machine.

    Files that exist are never overwritten.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"{name!r} is not a name for a file; use letters, digits, - and _")
    written = {
        folder / "experiments" / f"{name}.yaml": _EXPERIMENT,
        folder / "sweeps" / f"{name}.yaml": _SWEEP.format(name=name),
    }
    for path in written:
        if path.exists():
            raise UserError(f"{path} exists; choose another name: dlperf init NAME")
    for path, text in written.items():
        write_file(path, text.encode())
        echo(f"wrote {path}")
    there = "" if folder == Path() else f"cd {folder} && "
    echo("", f"Next: {there}dlperf plan {name}")


_DOCS_EPILOG = """\b
Examples:
  dlperf docs
  dlperf docs sweeps
  dlperf docs engines/mxnet | less"""


@click.command(epilog=_DOCS_EPILOG)
@click.argument("page", required=False, metavar="[PAGE]")
def docs(*, page: str | None) -> None:
    """Print a page of the documentation, or without PAGE the names of all pages."""
    root = shipped_folder("docs")
    pages = {str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*.md"))}
    if page is None:
        width = max(map(len, pages))
        echo(*(f"{name:<{width}}  {_title(path)}" for name, path in pages.items()))
        return
    name = os.path.normpath(page).removeprefix("docs/").removesuffix(".md")
    if name not in pages:
        raise UserError(f"{unknown('page', page, pages)}; `dlperf docs` lists all")
    write_data(pages[name].read_text(encoding="utf-8"))


def _title(path: Path) -> str:
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    return first.lstrip("# ")
