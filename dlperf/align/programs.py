"""Run the alignment programs, each in its framework's own environment, under the supervisor as every run."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dlperf.adapters.base import Launch
from dlperf.align.arrays import Flaw
from dlperf.align.modes import ON_ONE_DEVICE
from dlperf.errors import InfrastructureError
from dlperf.logs.failures import classify
from dlperf.plan.sweep import Limits
from dlperf.results.schema import read_outcome
from dlperf.results.store import write_atomically
from dlperf.running.launch import LEASE_SECONDS, free_port, launch_file, local_places
from dlperf.running.run_folder import CASE_NAME, LAUNCH_NAME, OUTCOME_NAME, empty_folder
from dlperf.running.supervision import SupervisedRun
from dlperf.running.transports.local import supervised_here

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dlperf.adapters.base import Adapter, RankCommand
    from dlperf.align.modes import Mode
    from dlperf.plan.case import Case
    from dlperf.results.schema import Outcome
    from dlperf.running.supervision import Interrupts

OUTPUTS_NAME: Final = "outputs.npz"

_TRAINING, _ALIGNMENT = ".train", ".align"
_INPUTS_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A framework to align.

    Attributes:
        name: how it is called in tables, such as `mxnet==1.9.1`.
        version: as the engine itself prints it.
        adapter: says how it is started.
        python: the interpreter of its environment.
        code: the folder that holds `frameworks/`.
        mode: how it is spread over devices.
        arguments: more arguments for its program.
        one_process: whether one process stands for all devices, whatever the adapter would start.
    """

    name: str
    version: str
    adapter: Adapter
    python: Path
    code: Path
    mode: Mode = ON_ONE_DEVICE
    arguments: tuple[str, ...] = ()
    one_process: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a contestant's program left: a file of each of its processes, by rank."""

    outputs: tuple[Path, ...]
    seconds: float


def make_inputs(case: Case, folder: Path, *, steps: int, code: Path) -> Path:
    """Write the weights and batches that every contestant is given; needs no framework.

    Raises:
        InfrastructureError: it did not work, or took too long.
    """
    case_file, inputs = folder / CASE_NAME, folder / "inputs.npz"
    case_file.write_text(case.model_dump_json(indent=1) + "\n", encoding="utf-8")
    module = "frameworks.common.align_inputs"
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, str(case_file), str(inputs), str(steps)],
            env={**os.environ, "PYTHONPATH": str(code)},
            capture_output=True,
            text=True,
            timeout=_INPUTS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InfrastructureError(
            f"the inputs of the alignment took more than {_INPUTS_SECONDS} s; take fewer classes or steps"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InfrastructureError(f"the inputs of the alignment could not be made: {last}")
    return inputs


def run_program(
    contestant: Contestant,
    case: Case,
    folder: Path,
    *,
    inputs: Path,
    time_limit_seconds: float,
    interrupts: Interrupts,
) -> Finished:
    """Run a contestant's program in `folder`.

    Raises:
        Flaw: it cannot run the case, or failed; with the reason.
        Interrupted: a signal stopped it, and nothing of it is left running.
        InfrastructureError: the supervisor could not do its work.
    """
    reason = contestant.adapter.unsupported(case)
    if reason is not None:
        raise Flaw(f"unsupported: {reason}")
    empty_folder(folder)
    write_atomically(folder / CASE_NAME, (case.model_dump_json(indent=1) + "\n").encode())
    _write_launch(contestant, case, folder, inputs=inputs, time_limit_seconds=time_limit_seconds)
    with interrupts.held():
        connection = supervised_here(folder, launch=LAUNCH_NAME)
        with SupervisedRun([connection], lease_seconds=LEASE_SECONDS) as run:
            interrupts.attach(run)
            for _ in run.events():
                pass
            code, complaint = connection.exit_code(), connection.complaint()
    interrupts.check()
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is None:
        raise InfrastructureError(f"the supervisor could not do its work: {complaint or f'exit code {code}'}")
    if outcome.reason != "completed":
        raise Flaw(_failure(outcome, folder))
    outputs = tuple(
        folder / outputs_name(end.rank) for end in sorted(outcome.ranks, key=lambda end: end.rank)
    )
    if not all(path.is_file() for path in outputs):
        raise Flaw("its program ended well and wrote no outputs")
    return Finished(outputs=outputs, seconds=outcome.seconds or 0.0)


def outputs_name(rank: int) -> str:
    """The file of the process that starts with `rank`, as frameworks/common/align.py names it."""
    return OUTPUTS_NAME if rank == 0 else OUTPUTS_NAME.replace(".npz", f".rank{rank}.npz")


def _write_launch(
    contestant: Contestant, case: Case, folder: Path, *, inputs: Path, time_limit_seconds: float
) -> None:
    places = local_places(case, port=free_port())
    launch = Launch(
        case=case,
        case_file=(folder / CASE_NAME).absolute(),
        code=contestant.code,
        python=contestant.python,
        places=places,
    )
    files = (str(inputs.absolute()), str((folder / OUTPUTS_NAME).absolute()), *contestant.arguments)
    commands = [_aligning(command, files) for command in contestant.adapter.rank_commands(launch)]
    if contestant.one_process:
        commands = [_for_all_devices(commands[0], len(places))]
    limits = Limits(time=time_limit_seconds)
    told = launch_file(case, places=places, commands=commands, limits=limits, node_rank=0)
    # The program says nothing until it is done.
    told = told.model_copy(update={"stall_limit_seconds": None})
    write_atomically(folder / LAUNCH_NAME, (told.model_dump_json(indent=1) + "\n").encode())


def _aligning(command: RankCommand, files: tuple[str, ...]) -> RankCommand:
    """The alignment program beside the training program that the adapter starts."""
    at = next((index for index, word in enumerate(command.argv) if word == "-m"), None)
    module = command.argv[at + 1] if at is not None else ""
    if at is None or not module.endswith(_TRAINING):
        raise Flaw("its adapter starts no `python -m ....train`, beside which an alignment program could lie")
    renamed = module.removesuffix(_TRAINING) + _ALIGNMENT
    return replace(command, argv=(*command.argv[: at + 1], renamed, *command.argv[at + 2 :], *files))


def _for_all_devices(command: RankCommand, devices: int) -> RankCommand:
    """The first rank's process, told that it stands for every device."""
    alone = {"DLPERF_DEVICES": str(devices)}
    return replace(command, env={**command.env, **alone}, devices=devices)


def _failure(outcome: Outcome, folder: Path) -> str:
    if outcome.reason != "rank_failed":
        return f"its program was ended: {outcome.reason}{f' ({outcome.detail})' if outcome.detail else ''}"
    failure = classify(_log_lines(folder), outcome)
    return f"its program failed: {failure.evidence.text if failure else outcome.detail or 'no reason known'}"


def _log_lines(folder: Path) -> Iterator[tuple[str, int, str]]:
    for path in sorted((folder / "logs").glob("rank*.log")):
        with path.open(encoding="utf-8", errors="replace") as log:
            for number, line in enumerate(log, 1):
                yield f"logs/{path.name}", number, line.rstrip("\n")
