"""What `dlperf align` was asked, and the way to its answer: environments, the machine, the programs."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlperf.align.course import REFERENCE_FRAMEWORK, Alignment
from dlperf.align.entrants import contestants_of
from dlperf.errors import UserError
from dlperf.running.run_folder import whole_machine
from dlperf.running.supervision import Interrupts

if TYPE_CHECKING:
    from dlperf.align.certificate import Certificate, Tolerance
    from dlperf.align.course import ReferenceMode
    from dlperf.align.entrants import Entrant
    from dlperf.align.modes import Mode
    from dlperf.align.probe import Settings
    from dlperf.plan.case import Workload
    from dlperf.plan.machine import Machine

_KEPT = "align"
_INPUTS = "inputs.npz"  # by which a folder that an alignment left is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whether the entrants, each in every mode, compute the same function."""

    workload: Workload
    entrants: tuple[Entrant, ...]
    modes: tuple[Mode, ...]
    settings: Settings
    tolerance: Tolerance
    reference: ReferenceMode
    time_limit_seconds: float


def must_have_an_answer(question: Question, machine: Machine) -> None:
    """Refuse what cannot be compared at all, before anything is written or started.

    Raises:
        UserError: with the option that stands in the way.
    """
    devices = question.settings.global_devices
    if len(question.entrants) * len(question.modes) < 2:  # noqa: PLR2004
        raise UserError("--frameworks: give two or more different frameworks or versions to compare")
    if question.settings.device == "cuda" and devices > len(machine.gpus):
        raise UserError(f"--topology: {devices} GPUs are asked for; this machine has {len(machine.gpus)}")
    classes = question.settings.num_classes
    if any(classes < mode.topology.world_size for mode in question.modes if mode.parallelism != "data"):
        raise UserError(f"--num-classes: {classes} cannot be split over {devices} devices; take more")
    names = {entrant.adapter.name for entrant in question.entrants}
    if question.reference == "always" and REFERENCE_FRAMEWORK not in names:
        raise UserError(
            f"--reference always: {REFERENCE_FRAMEWORK} computes the reference; add it to --frameworks"
        )


def run(question: Question, folder: Path, *, keep: bool) -> Certificate:
    """Train, compare, and say what was found; the programs' files lie in `folder`, with `keep` for good.

    Raises:
        EnvironmentUnavailable: no framework is left to align.
        InfrastructureError: the inputs could not be made, or a supervisor failed.
        Interrupted: a signal; nothing is left running.
    """
    interrupts = Interrupts(say=_say)
    with ExitStack() as held:
        held.enter_context(interrupts.taken())
        place = _workplace(folder, keep=keep, held=held)
        contestants, absent = contestants_of(question.entrants, question.modes, held=held, say=_say)
        held.enter_context(whole_machine(wait=True, say=_say))
        alignment = Alignment(
            workload=question.workload,
            contestants=contestants,
            settings=question.settings,
            tolerance=question.tolerance,
            reference=question.reference,
            time_limit_seconds=question.time_limit_seconds,
            folder=place,
            interrupts=interrupts,
            say=_say,
            absent=absent,
        )
        return alignment.certificate()


def _workplace(folder: Path, *, keep: bool, held: ExitStack) -> Path:
    """Where the programs' files go: beside the certificate, as they may be too large for /tmp."""
    for leftover in folder.glob(".align-*-*"):
        if not Path("/proc", leftover.name.split("-")[1]).exists():
            shutil.rmtree(leftover, ignore_errors=True)  # gigabytes, of a dlperf that was killed
    if not keep:
        made = tempfile.TemporaryDirectory(prefix=f".align-{os.getpid()}-", dir=folder)
        return Path(held.enter_context(made))
    kept = folder / _KEPT
    if kept.exists() and not (kept / _INPUTS).is_file():
        raise UserError(f"{kept} was not left by an alignment; remove it, or choose another --out DIR")
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    return kept


def _say(text: str) -> None:
    click.echo(f"dlperf: {text}", err=True)
