"""`dlperf align`: proof that the frameworks compute the same function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from dlperf.align.certificate import Certificate
    from dlperf.align.course import ReferenceMode
    from dlperf.align.modes import Mode

EXIT_ALIGNED, EXIT_BROKEN = 0, 1

_EPILOG = """\b
Examples:
  dlperf align y1_emore
  dlperf align r100_emore --frameworks mxnet==1.9.1,pytorch
  dlperf align y1_emore --frameworks mxnet==1.9.1,mxnet==1.9.0 --out results/mxnet
  dlperf align y1_emore --frameworks 'mxnet, mxnet @ dist/mxnet-1.9.2-py3-none-any.whl'
  dlperf align r100_glint360k --reference always --json
  dlperf align y1_emore --parallelism data,model,partial_fc --topology 1n2g
  dlperf align y1_emore --parallelism model --topology 1n1g,1n2g --frozen-batch-norm
  dlperf align y1_emore --parallelism partial_fc --topology 1n2g --sample-ratio 0.1

EXPERIMENT is a path, or the name of a file in ./experiments or of an experiment that ships with dlperf.

All frameworks get the same weights and batches, made by numpy, and train some steps; then embeddings, losses,
gradients, parameters and BatchNorm statistics are compared, also between the ways to spread a case over
devices that are asked for. The finding is saved as align.json (of several devices as align-WAYS.json), which
`dlperf report` shows. docs/alignment.md says what is compared and what the figures are relative to.

Exit codes: 0 aligned, 1 not aligned or not comparable, 2 wrong input, 5 infrastructure, 130 Ctrl-C."""


class _Finite(click.FloatRange):
    """A range that holds no `nan`, which compares as neither too small nor too large, and no `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        return number if math.isfinite(number) else self.fail(f"{value} is no finite number.", param, ctx)


@click.command(epilog=_EPILOG)
@click.argument("experiment")
@click.option(
    "--frameworks",
    metavar="NAME==VERSION,...",
    help="Which to align: NAME, NAME==VERSION, 'NAME @ WHEEL' or 'NAME==VERSION @ INDEX'.  "
    "[default: every framework there is]",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="NAME=PATH",
    help="An interpreter of your own for a framework. Repeatable.",
)
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Steps to train.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=2),
    help="Images a step and device.  [default: 2, or 4 for mobilefacenet]",
)
@click.option(
    "--parallelism",
    "parallelisms",
    default="data",
    show_default=True,
    metavar="NAME,...",
    help="data, model, partial_fc: all are compared with each other.",
)
@click.option(
    "--topology",
    "topologies",
    default="1n1g",
    show_default=True,
    metavar="NnGg,...",
    help="Of this machine; several of them with --frozen-batch-norm.",
)
@click.option(
    "--sample-ratio",
    type=_Finite(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Of partial_fc; below 1 it is compared with itself alone, across frameworks.",
)
@click.option(
    "--frozen-batch-norm",
    is_flag=True,
    help="Normalise by given statistics, so that other numbers of devices compute the same.",
)
@click.option(
    "--num-classes",
    type=click.IntRange(min=2),
    default=1000,
    show_default=True,
    help="Classes in place of the experiment's, which are more than a proof needs.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights and batches."
)
@click.option(
    "--tolerance",
    type=_Finite(min=0, min_open=True),
    default=1e-4,
    show_default=True,
    help="Largest relative difference in the first step; ten times as much in gradients and later steps.",
)
@click.option(
    "--reference",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Compare with PyTorch in float64, which tells who is wrong; auto: where two differ.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--time-limit",
    type=_Finite(min=1),
    default=1800,
    show_default=True,
    help="Seconds that one framework may take.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for align.json.  [default: results/EXPERIMENT]",
)
@click.option(
    "--keep", is_flag=True, help="Keep all arrays and logs in the folder `align` beside align.json."
)
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    experiment: str,
    frameworks: str | None,
    pythons: tuple[str, ...],
    parallelisms: str,
    topologies: str,
    sample_ratio: float,
    tolerance: float,
    reference: ReferenceMode,
    device: Literal["auto", "cpu", "cuda"],
    time_limit: float,
    out: Path | None,
    keep: bool,
    as_json: bool,
    **chosen: Any,  # the fields of `Settings` that have the same name
) -> None:
    """Prove that the frameworks compute the same function on EXPERIMENT, or name what differs."""
    from dlperf.adapters.registry import load_adapters
    from dlperf.align.certificate import Tolerance
    from dlperf.align.modes import certificate_name
    from dlperf.align.probe import Settings
    from dlperf.cli.align_frameworks import entrants_of
    from dlperf.cli.align_run import Question, must_have_an_answer, run
    from dlperf.plan.load import load_experiment
    from dlperf.plan.machine import detect_machine
    from dlperf.running.supervision import Interrupted

    machine = detect_machine()
    kind = machine.device if device == "auto" else device
    frozen = chosen["frozen_batch_norm"]
    modes = _modes(parallelisms, topologies, sample_ratio, frozen_batch_norm=frozen)
    most = max(mode.topology.world_size for mode in modes)
    question = Question(
        workload=load_experiment(experiment)[0].workload,
        entrants=entrants_of(frameworks, pythons, adapters=load_adapters(), device=kind, parallel=most > 1),
        modes=modes,
        settings=Settings(**chosen, cores=machine.cores, global_devices=most, device=kind),
        tolerance=Tolerance(first_step=tolerance, after_steps=10 * tolerance),
        reference=reference,
        time_limit_seconds=time_limit,
    )
    must_have_an_answer(question, machine)
    folder = _made(out or Path("results") / question.workload.experiment)
    try:
        certificate = run(question, folder, keep=keep)
    except Interrupted as interrupted:
        click.echo("stopped; nothing was saved", err=True)
        ctx.exit(interrupted.exit_code)
    path = folder / certificate_name(modes, frozen_batch_norm=frozen)
    _finish(certificate, path, as_json=as_json)
    ctx.exit(EXIT_ALIGNED if certificate.passed else EXIT_BROKEN)


def _modes(
    parallelisms: str, topologies: str, sample_ratio: float, *, frozen_batch_norm: bool
) -> tuple[Mode, ...]:
    from typing import get_args

    from dlperf.align.modes import modes
    from dlperf.errors import UserError
    from dlperf.plan.case import Parallelism, Topology
    from dlperf.plan.documents import unknown

    known: tuple[Parallelism, ...] = get_args(Parallelism)
    names = list(dict.fromkeys(part.strip() for part in parallelisms.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"--parallelism: {unknown('parallelism', name, known)}")
    try:
        places = [Topology.from_text(part.strip()) for part in topologies.split(",")]
    except ValueError as error:
        raise UserError(f"--topology: {error}") from error
    return modes(
        [one for name in names for one in known if one == name],
        list(dict.fromkeys(places)),
        sample_ratio=sample_ratio,
        frozen_batch_norm=frozen_batch_norm,
    )


def _made(folder: Path) -> Path:
    from dlperf.errors import UserError

    if folder.suffix == ".json":
        raise UserError(
            f"{folder}: --out takes the folder that {folder.name} is to lie in: --out {folder.parent}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; choose another folder with --out DIR") from error
    return folder


def _finish(certificate: Certificate, path: Path, *, as_json: bool) -> None:
    """Save the certificate and print it."""
    from dlperf.align.table import findings, heading, pairs_table
    from dlperf.cli.tables import rendered
    from dlperf.results.store import write_atomically

    text = certificate.model_dump_json(indent=1) + "\n"
    if as_json:
        click.echo(text, nl=False)
    else:
        click.echo(
            f"{heading(certificate)}\n{rendered(pairs_table(certificate))}\n{findings(certificate)}", nl=False
        )
    write_atomically(path, text.encode())
    click.echo(f"certificate: {path}", err=as_json)
