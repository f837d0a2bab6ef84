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

EXPERIMENT is a path, or the name of a file in ./experiments or of an experiment that ships with dlperf.

All frameworks get the same weights and batches, made by numpy, and train some steps; then embeddings, losses,
gradients, parameters and BatchNorm statistics are compared. The finding is saved as align.json, which `dlperf
report` shows. docs/alignment.md says what is compared and what the figures are relative to.

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
    help="Images a step.  [default: 2, or 4 for mobilefacenet]",
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
    from dlperf.align.certificate import CERTIFICATE_NAME
    from dlperf.align.table import findings, heading, pairs_table
    from dlperf.cli.tables import rendered
    from dlperf.plan.load import load_experiment
    from dlperf.results.store import write_atomically
    from dlperf.running.interrupts import Interrupted

    workload = load_experiment(experiment)[0].workload
    folder = out or Path("results") / workload.experiment
    folder.mkdir(parents=True, exist_ok=True)
    try:
        certificate = _align(workload, folder, **options)
    except Interrupted as interrupted:
        click.echo("stopped; nothing was saved", err=True)
        ctx.exit(interrupted.exit_code)
    path = folder / CERTIFICATE_NAME
    text = certificate.model_dump_json(indent=1) + "\n"
    write_atomically(path, text.encode())
    if as_json:
        click.echo(text, nl=False)
    else:
        click.echo(f"{heading(certificate)}\n{rendered(pairs_table(certificate))}")
        click.echo(f"{findings(certificate)}certificate: {path}")
    ctx.exit(EXIT_ALIGNED if certificate.passed else EXIT_BROKEN)


def _align(workload: Any, folder: Path, *, device: str, keep: bool, **options: Any) -> Certificate:
    from dlperf.adapters.registry import load_adapters
    from dlperf.align.certificate import Tolerance
    from dlperf.align.course import Alignment
    from dlperf.align.probe import Settings
    from dlperf.machine import detect_machine
    from dlperf.running.interrupts import Interrupts
    from dlperf.running.locks import whole_machine

    machine, adapters = detect_machine(), load_adapters()
    kind: DeviceKind = machine.device if device == "auto" else device  # type: ignore[assignment]
    entries = _entries(options["frameworks"], options["pythons"], adapters)
    settings = Settings(
        steps=options["steps"],
        batch_size=options["batch_size"],
        num_classes=options["num_classes"],
        threads=machine.cores,
        device=kind,
        seed=options["seed"],
    )
    tolerance = Tolerance(first_step=options["tolerance"], after_steps=10 * options["tolerance"])
    interrupts = Interrupts(say=_say)
    with ExitStack() as held:
        held.enter_context(interrupts.taken())
        contestants, absent = _contestants(entries, adapters, kind, held)
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
    frameworks: str | None, pythons: tuple[str, ...], adapters: Mapping[str, Adapter]
) -> list[FrameworkEntry]:
    """The frameworks that were asked for, each with its version and perhaps an interpreter."""
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
    if len({str(entry) for entry in entries}) < max(2, len(entries)):
        raise UserError("--frameworks: give two or more different frameworks or versions to compare")
    return entries


def _python(text: str) -> tuple[str, str]:
    from dlperf.errors import UserError

    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise UserError(f"--python: {text!r} is no NAME=PATH; write mxnet=/path/to/python")
    return name, path


def _contestants(
    entries: list[FrameworkEntry], adapters: Mapping[str, Adapter], device: DeviceKind, held: ExitStack
) -> tuple[list[Contestant], dict[str, str]]:
    """Those whose environment is ready, and the others with the reason.

    Raises:
        EnvironmentUnavailable: none is left.
    """
    from dlperf.align.programs import Contestant
    from dlperf.environments import ensure
    from dlperf.errors import EnvironmentUnavailable, UserError
    from dlperf.shipped import shipped_root

    contestants, absent = [], {}
    for entry in entries:
        adapter = adapters[entry.name]
        try:
            spec = adapter.environment(str(entry.version), device)
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
        contestants.append(
            Contestant(
                name=str(entry),
                version=environment.manifest.version,
                adapter=adapter,
                python=environment.python,
                code=shipped_root(),
            )
        )
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
