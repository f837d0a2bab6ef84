"""Run the alignment programs, each in its framework's environment and under the supervisor as every run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal

from dlperf.adapters.base import RankCommand
from dlperf.align.arrays import Flaw, Inputs, Outputs
from dlperf.align.certificate import (
    REFERENCE,
    REFERENCE_FRAMEWORK,
    Certificate,
    Pair,
    ParticipantResult,
    Readers,
    Tolerance,
    verdict,
)
from dlperf.align.compare import compare, defined_loss
from dlperf.align.participants import Participant, Settings, probe_case
from dlperf.align.readers import compare_readers
from dlperf.files import run_shipped, write_document
from dlperf.layout import CASE_NAME
from dlperf.logs.endings import Outcome
from dlperf.logs.failures import classify
from dlperf.plan.case import Case, DataSet, Workload
from dlperf.results.run_outcome import log_lines
from dlperf.running.launch import free_port, local_launch
from dlperf.running.supervision import Interrupts
from dlperf.running.unmeasured import run_to_its_end, write_launch
from dlperf.version import __version__
from dlperf.wording import plural

ReferenceMode = Literal["auto", "always", "never"]

INPUTS_NAME: Final = "inputs.npz"
OUTPUTS_NAME: Final = "outputs.npz"

_TRAINING, _ALIGNMENT = ".train", ".align"
_INPUTS_SECONDS: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a participant's program gave: outputs, or a result that says why there are none."""

    result: ParticipantResult
    outputs: Outputs | None = None


def _without_outputs(name: str, error: str, *, version: str = "") -> Trained:
    return Trained(result=ParticipantResult(name=name, version=version, error=error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What to align and how; `folder` takes the programs' files, gigabytes of them, and is the caller's.

    `absent` are frameworks that were asked for and cannot take part: name -> why.
    """

    workload: Workload
    participants: Sequence[Participant]
    settings: Settings
    tolerance: Tolerance
    reference: ReferenceMode
    time_limit_seconds: float
    folder: Path
    interrupts: Interrupts
    say: Callable[[str], None]
    absent: Mapping[str, str] = field(default_factory=dict)
    data: DataSet | None = None  # to compare the frameworks' own readers on; None: they are not compared

    def certificate(self) -> Certificate:
        """Run the programs and compare what they computed.

        Interrupted after a signal; InfrastructureError where inputs cannot be made or a supervisor failed.
        """
        case = self._case(self._largest())
        self.say("making weights and batches")
        path = make_inputs(case, self.folder, steps=self.settings.steps)
        with Inputs(path) as inputs, ExitStack() as opened:
            trained = [self._train(one, inputs, opened) for one in self.participants]
            absent = [_without_outputs(name, why) for name, why in self.absent.items()]
            pairs = [self._pair(one, other, inputs) for one, other in combinations((*trained, *absent), 2)]
            reference = self._reference(pairs, inputs, opened)
            against = [self._pair(one, reference, inputs) for one in trained] if reference else []
        readers = None if self.data is None else self._readers(self.data)
        certificate = Certificate(
            dlperf_version=__version__,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            experiment=self.workload.experiment,
            experiment_hash=self.workload.content_hash,
            case=case,
            steps=self.settings.steps,
            tolerance=self.tolerance,
            participants=tuple(one.result for one in (*trained, *absent)),
            pairs=tuple(pairs),
            reference=tuple(against),
            readers=readers,
            verdict="",
            passed=all(pair.passed for pair in (*pairs, *against)) and not (readers and readers.faults()),
        )
        return certificate.model_copy(update={"verdict": verdict(certificate)})

    def _readers(self, data: DataSet) -> Readers:
        return compare_readers(
            self.participants,
            data,
            folder=self.folder,
            time_limit_seconds=self.time_limit_seconds,
            interrupts=self.interrupts,
            say=self.say,
        )

    def _case(self, participant: Participant) -> Case:
        framework = participant.adapter.name
        version = participant.name.partition(" ")[0].removeprefix(f"{framework}==")
        return probe_case(
            self.workload, framework=framework, version=version, settings=self.settings, mode=participant.mode
        )

    def _largest(self) -> Participant:
        """The participant with the most devices, whose batches are the global ones."""
        return max(self.participants, key=lambda one: one.mode.topology.world_size)

    def _train(
        self,
        participant: Participant,
        inputs: Inputs,
        opened: ExitStack,
        *,
        case: Case | None = None,
    ) -> Trained:
        """Run a participant's program; `opened` closes its outputs."""
        case = case or self._case(participant)
        self.say(f"{participant.name}: training {plural(self.settings.steps, 'step')}")
        try:
            files, seconds = run_program(
                participant,
                case,
                self.folder / participant.name.replace(" ", "_"),
                inputs=inputs.path,
                time_limit_seconds=self.time_limit_seconds,
                interrupts=self.interrupts,
            )
            outputs = Outputs(files, inputs, steps=self.settings.steps)
        except Flaw as flaw:
            self.say(f"{participant.name}: {flaw}")
            return _without_outputs(participant.name, str(flaw), version=participant.version)
        opened.callback(outputs.close)
        self.say(f"{participant.name}: done in {seconds:.0f} s")
        result = ParticipantResult(
            name=participant.name,
            version=participant.version,
            seconds=round(seconds, 1),
            losses=outputs.losses,
            defined_loss=defined_loss(outputs, inputs, case),
        )
        return Trained(result=result, outputs=outputs)

    def _pair(self, first: Trained, second: Trained, inputs: Inputs) -> Pair:
        names = first.result.name, second.result.name
        if first.outputs is None or second.outputs is None:
            flawed = (first if first.outputs is None else second).result
            why = f"{flawed.name}: {flawed.error}"
            return Pair(first=names[0], second=names[1], passed=False, error=why)
        case = self._case(self._largest())
        return compare(names, first.outputs, second.outputs, inputs, case=case, tolerance=self.tolerance)

    def _reference(self, pairs: Sequence[Pair], inputs: Inputs, opened: ExitStack) -> Trained | None:
        """PyTorch in float64; for `auto` only where two participants differ."""
        differ = any(pair.figures and not pair.passed for pair in pairs)
        if self.reference == "never" or (self.reference == "auto" and not differ):
            return None
        engine = next((one for one in self.participants if one.adapter.name == REFERENCE_FRAMEWORK), None)
        if engine is None:
            self.say(f"no reference: {REFERENCE_FRAMEWORK} computes it, and takes no part")
            return None
        mode = self._largest().mode
        reference = replace(engine, name=REFERENCE, mode=mode, is_reference=True)
        case = self._case(replace(engine, mode=mode))
        # Eager and in NCHW on the CPU: the plainest way through the engine. But a GPU's samples are its own.
        plain: dict[str, Any] = {"precision": "fp32", "options": {"channels_last": False, "compile": False}}
        if case.sample_ratio in {None, 1.0}:
            plain["device"] = "cpu"
        case = case.model_copy(update=plain)
        return self._train(reference, inputs, opened, case=case)


def make_inputs(case: Case, folder: Path, *, steps: int) -> Path:
    """Write the weights and batches that every participant is given; needs no framework.

    InfrastructureError where it did not work, or took too long.
    """
    case_file, inputs = (folder.absolute() / name for name in (CASE_NAME, INPUTS_NAME))
    write_document(case_file, case)
    arguments = str(case_file), str(inputs), str(steps)
    what = "cannot make the inputs of the alignment (fewer classes or steps make them smaller)"
    run_shipped("frameworks.common.align_inputs", *arguments, seconds=_INPUTS_SECONDS, what=what)
    return inputs


def run_program(
    participant: Participant,
    case: Case,
    folder: Path,
    *,
    inputs: Path,
    time_limit_seconds: float,
    interrupts: Interrupts,
) -> tuple[tuple[Path, ...], float]:
    """Run a participant's program in `folder`; its output files by rank, and the seconds it took.

    Flaw with the reason where it cannot run the case or failed; Interrupted where a signal stopped it, with
    nothing left running; InfrastructureError where the supervisor could not do its work.
    """
    reason = participant.adapter.unsupported(case)
    if reason is not None:
        raise Flaw(f"unsupported: {reason}")
    files = (str(inputs.absolute()), str((folder / OUTPUTS_NAME).absolute()))

    def commands(training: Sequence[RankCommand]) -> list[RankCommand]:
        if not participant.is_reference:
            return alignment_commands(training, files)
        first, devices = training[0], case.topology.world_size
        if devices > 1:  # it stands for every device
            first = replace(first, env={**first.env, "DLPERF_DEVICES": str(devices)}, devices=devices)
        return alignment_commands([first], (*files, "float64"))

    write_launch(
        folder,
        case,
        adapter=participant.adapter,
        node=local_launch(folder, python=participant.python, code=participant.code),
        port=free_port(),
        commands=commands,
        time_limit_seconds=time_limit_seconds,
    )
    outcome = run_to_its_end(folder, time_limit_seconds=time_limit_seconds, interrupts=interrupts)
    if outcome.reason != "completed":
        raise Flaw(failure_of(outcome, folder))
    outputs = tuple(
        folder / outputs_name(end.rank) for end in sorted(outcome.ranks, key=lambda end: end.rank)
    )
    if not all(path.is_file() for path in outputs):
        raise Flaw("its program succeeded but wrote no outputs")
    return outputs, outcome.seconds or 0.0


def outputs_name(rank: int) -> str:
    """The file of the process that starts with `rank`, as frameworks/common/align.py names it."""
    return OUTPUTS_NAME if rank == 0 else OUTPUTS_NAME.replace(".npz", f".rank{rank}.npz")


def alignment_commands(training: Sequence[RankCommand], files: tuple[str, ...]) -> list[RankCommand]:
    """The alignment program in place of the training program that the adapter starts; Flaw without one."""
    return [_alignment_command(command, files) for command in training]


def _alignment_command(command: RankCommand, files: tuple[str, ...]) -> RankCommand:
    argv = list(command.argv)
    module = argv.index("-m") + 1 if "-m" in argv else None
    if module is None or not argv[module].endswith(_TRAINING):
        raise Flaw("its adapter starts no `python -m ....train`, so that it has no alignment program")
    argv[module] = argv[module].removesuffix(_TRAINING) + _ALIGNMENT
    return replace(command, argv=(*argv, *files))


def failure_of(outcome: Outcome, folder: Path) -> str:
    """Why a program did not complete."""
    if outcome.reason != "rank_failed":
        return f"its program was ended: {outcome.reason}{f' ({outcome.detail})' if outcome.detail else ''}"
    failure = classify(log_lines(folder), outcome)
    return f"its program failed: {failure.evidence.text if failure else outcome.detail or 'no reason known'}"
