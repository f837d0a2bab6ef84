"""`dlperf align`: proof that the frameworks compute the same function."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dlperf.adapters.base import Adapter
    from dlperf.align.certificate import Certificate
    from dlperf.align.modes import Mode
    from dlperf.align.programs import Contestant
    from dlperf.plan.case import DeviceKind
    from dlperf.plan.sweep_file import FrameworkEntry

EXIT_ALIGNED, EXIT_BROKEN = 0, 1

_EPILOG = """\b
Examples:
  dlperf align y1_emore
  dlperf align r100_emore --frameworks mxnet==1.9.1,pytorch
  dlperf align y1_emore --frameworks mxnet==1.9.1,mxnet==1.9.0 --out results/mxnet
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


@click.command(epilog=_EPILOG)
@click.argument("experiment")
@click.option(
    "--frameworks",
    metavar="NAME==VERSION,...",
    help="Which to align; a version may be left out.  [default: every framework there is]",
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
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Of partial_fc; below 1 it is compared with itself alone, across frameworks.",
)
@click.option(
    "--frozen-batch-norm",
    is_flag=True,
    help="Normalise by given statistics, so that other numbers of devices compute the same.",
)
@click.option("--num-classes", type=click.IntRange(min=2), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
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
    type=click.FloatRange(min=1),
    default=1800,
    show_default=True,
    help="Seconds that one framework may take.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for align.json.  [default: results/EXPERIMENT]"
)
@click.option(
    "--keep", is_flag=True, help="Keep all arrays and logs in the folder `align` beside align.json."
)
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
@click.pass_context
def command(
    ctx: click.Context, /, *, experiment: str, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Prove that the frameworks compute the same function on EXPERIMENT, or name what differs."""
    from dlperf.align.modes import certificate_name
    from dlperf.align.table import findings, heading, pairs_table
    from dlperf.cli.tables import rendered
    from dlperf.plan.load import load_experiment
    from dlperf.results.store import write_atomically
    from dlperf.running.interrupts import Interrupted

    workload = load_experiment(experiment)[0].workload
    folder = out or Path("results") / workload.experiment
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _modes(options.pop("parallelisms"), options.pop("topologies"), options)
    try:
        certificate = _align(workload, folder, chosen=chosen, **options)
    except Interrupted as interrupted:
        click.echo("stopped; nothing was saved", err=True)
        ctx.exit(interrupted.exit_code)
    path = folder / certificate_name(chosen, frozen_batch_norm=options["frozen_batch_norm"])
    text = certificate.model_dump_json(indent=1) + "\n"
    write_atomically(path, text.encode())
    if as_json:
        click.echo(text, nl=False)
    else:
        click.echo(f"{heading(certificate)}\n{rendered(pairs_table(certificate))}")
        click.echo(f"{findings(certificate)}certificate: {path}")
    ctx.exit(EXIT_ALIGNED if certificate.passed else EXIT_BROKEN)


def _modes(parallelisms: str, topologies: str, options: dict[str, Any]) -> tuple[Mode, ...]:
    from typing import get_args

    from dlperf.align.modes import modes
    from dlperf.errors import UserError
    from dlperf.plan.case import Parallelism, Topology
    from dlperf.plan.validation import unknown

    known: tuple[Any, ...] = get_args(Parallelism)
    names = list(dict.fromkeys(part.strip() for part in parallelisms.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"--parallelism: {unknown('parallelism', name, known)}")
    try:
        places = [Topology.from_text(part.strip()) for part in topologies.split(",")]
    except ValueError as error:
        raise UserError(f"--topology: {error}") from error
    return modes(
        [known[known.index(name)] for name in names],
        list(dict.fromkeys(places)),
        sample_ratio=options.pop("sample_ratio"),
        frozen_batch_norm=options["frozen_batch_norm"],
    )


def _align(
    workload: Any, folder: Path, *, chosen: tuple[Mode, ...], device: str, keep: bool, **options: Any
) -> Certificate:
    from dlperf.adapters.registry import load_adapters
    from dlperf.align.certificate import Tolerance
    from dlperf.align.course import Alignment
    from dlperf.align.probe import Settings
    from dlperf.machine import detect_machine
    from dlperf.running.interrupts import Interrupts
    from dlperf.running.locks import whole_machine

    machine, adapters = detect_machine(), load_adapters()
    kind: DeviceKind = machine.device if device == "auto" else device  # type: ignore[assignment]
    entries = _entries(options["frameworks"], options["pythons"], adapters, ways=len(chosen))
    settings = Settings(
        steps=options["steps"],
        batch_size=options["batch_size"],
        num_classes=options["num_classes"],
        cores=machine.cores,
        global_devices=max(mode.topology.world_size for mode in chosen),
        frozen_batch_norm=options["frozen_batch_norm"],
        device=kind,
        seed=options["seed"],
    )
    tolerance = Tolerance(first_step=options["tolerance"], after_steps=10 * options["tolerance"])
    interrupts = Interrupts(say=_say)
    with ExitStack() as held:
        held.enter_context(interrupts.taken())
        contestants, absent = _contestants(entries, adapters, kind, chosen, held)
        held.enter_context(whole_machine(wait=True, say=_say))
        alignment = Alignment(
            workload=workload,
            contestants=contestants,
            settings=settings,
            tolerance=tolerance,
            reference=options["reference"],
            time_limit_seconds=options["time_limit"],
            folder=_workplace(folder, keep=keep, held=held),
            interrupts=interrupts,
            say=_say,
            absent=absent,
        )
        return alignment.certificate()


def _entries(
    frameworks: str | None, pythons: tuple[str, ...], adapters: Mapping[str, Adapter], *, ways: int
) -> list[FrameworkEntry]:
    """The frameworks that were asked for, each with its version and perhaps an interpreter.

    In several `ways` to spread it a single framework can be compared with itself.
    """
    from pydantic import ValidationError

    from dlperf.errors import UserError
    from dlperf.plan.sweep_file import FrameworkEntry
    from dlperf.plan.validation import unknown

    given = dict(_python(text) for text in pythons)
    asked = [part.strip() for part in frameworks.split(",")] if frameworks else list(adapters)
    entries = []
    for text in asked:
        name, _, version = text.partition("==")
        if name not in adapters:
            raise UserError(f"--frameworks: {unknown('framework', name, adapters)}")
        version = version or adapters[name].versions[0]
        try:
            content = {"name": name, "version": version, "python": given.get(name)}
            entries.append(FrameworkEntry.model_validate(content, context={"frameworks": adapters}))
        except ValidationError as error:
            raise UserError(f"--frameworks: {text!r}: {error.errors()[0]['msg']}") from error
    stray = sorted(set(given) - {entry.name for entry in entries})
    if stray:
        raise UserError(f"--python: {stray[0]} is not among the frameworks to align")
    if len({str(entry) for entry in entries}) < len(entries):
        raise UserError("--frameworks: one of them stands twice")
    if len(entries) * ways < 2:  # noqa: PLR2004
        raise UserError("--frameworks: give two or more different frameworks or versions to compare")
    return entries


def _python(text: str) -> tuple[str, str]:
    from dlperf.errors import UserError

    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise UserError(f"--python: {text!r} is no NAME=PATH; write mxnet=/path/to/python")
    return name, path


def _contestants(
    entries: list[FrameworkEntry],
    adapters: Mapping[str, Adapter],
    device: DeviceKind,
    chosen: tuple[Mode, ...],
    held: ExitStack,
) -> tuple[list[Contestant], dict[str, str]]:
    """Each framework whose environment is ready in each mode, and the others with the reason.

    Raises:
        EnvironmentUnavailable: none is left.
    """
    from dlperf.align.modes import ON_ONE_DEVICE
    from dlperf.align.programs import Contestant
    from dlperf.environments import ensure
    from dlperf.errors import EnvironmentUnavailable, UserError
    from dlperf.shipped import shipped_root

    contestants, absent = [], {}
    parallel = any(mode.topology.world_size > 1 for mode in chosen)
    for entry in entries:
        adapter = adapters[entry.name]
        try:
            spec = adapter.environment(str(entry.version), device, parallel=parallel)
        except ValueError as error:
            raise UserError(f"--frameworks: {error}") from error
        python = Path(entry.python).expanduser().absolute() if entry.python else None
        try:
            environment = ensure(spec, python=python, report=_say)
            held.enter_context(environment.in_use())
        except EnvironmentUnavailable as error:
            _say(f"{entry}: {error}")
            absent[str(entry)] = str(error)
            continue
        contestants += [
            Contestant(
                name=str(entry) if chosen == (ON_ONE_DEVICE,) else f"{entry} {mode}",
                version=environment.manifest.version,
                adapter=adapter,
                python=environment.python,
                code=shipped_root(),
                mode=mode,
            )
            for mode in chosen
        ]
    if not contestants:
        raise EnvironmentUnavailable(
            f"no framework to align: {'; '.join(f'{name}: {why}' for name, why in absent.items())}"
        )
    return contestants, absent


def _workplace(folder: Path, *, keep: bool, held: ExitStack) -> Path:
    """Where the programs' files go: beside the certificate, as they may be too large for /tmp."""
    if keep:
        kept = folder / "align"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        return kept
    return Path(held.enter_context(tempfile.TemporaryDirectory(prefix=f".align-{os.getpid()}-", dir=folder)))


def _say(text: str) -> None:
    click.echo(f"dlperf: {text}", err=True)
