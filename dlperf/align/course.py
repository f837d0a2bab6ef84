"""The course of an alignment: one set of inputs, every contestant's program, all pairs, a certificate."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal

from dlperf import __version__
from dlperf.align.arrays import Flaw, Inputs, Outputs, read_outputs
from dlperf.align.certificate import Certificate, Contender, Pair, Tolerance, workload_hash
from dlperf.align.compare import figures, passes
from dlperf.align.diagnosis import Two, culprit, first_to_differ
from dlperf.align.probe import Settings, probe_case
from dlperf.align.programs import Contestant, make_inputs, run_program
from dlperf.align.verdict import REFERENCE, verdict
from dlperf.files import shipped_root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dlperf.plan.case import Case, Workload
    from dlperf.running.supervision import Interrupts

ReferenceMode = Literal["auto", "always", "never"]

# The engine whose program can compute in float64.
REFERENCE_FRAMEWORK: Final = "pytorch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What to align and how; `folder` takes the programs' files, gigabytes of them, and is the caller's.

    `absent` are frameworks that were asked for and cannot take part: name -> why.
    """

    workload: Workload
    contestants: Sequence[Contestant]
    settings: Settings
    tolerance: Tolerance
    reference: ReferenceMode
    time_limit_seconds: float
    folder: Path
    interrupts: Interrupts
    say: Callable[[str], None]
    absent: dict[str, str] = field(default_factory=dict)
    _opened: ExitStack = field(default_factory=ExitStack)

    def certificate(self) -> Certificate:
        """Run the programs and compare what they computed.

        Raises:
            Interrupted: a signal.
            InfrastructureError: the inputs could not be made, or a supervisor failed.
        """
        case = self._case(self._largest())
        self.say("making weights and batches")
        path = make_inputs(case, self.folder, steps=self.settings.steps, code=shipped_root())
        with Inputs(path) as inputs, self._opened:
            results = {one.name: self._result(one, path, inputs) for one in self.contestants}
            names = [*results, *self.absent]
            for name, why in self.absent.items():
                results[name] = _Result(contender=Contender(name=name, version="", error=why), outputs=None)
            pairs = [self._pair(results[a], results[b], inputs) for a, b in combinations(names, 2)]
            reference = self._reference(results, pairs, path, inputs)
        passed = all(pair.passed for pair in (*pairs, *reference))
        return Certificate(
            dlperf_version=__version__,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            experiment=self.workload.experiment,
            experiment_hash=workload_hash(self.workload),
            case=case,
            steps=self.settings.steps,
            tolerance=self.tolerance,
            contenders=tuple(results[name].contender for name in names),
            pairs=tuple(pairs),
            reference=reference,
            verdict=verdict([results[name].contender for name in names], pairs, reference),
            passed=passed,
        )

    def _case(self, contestant: Contestant) -> Case:
        framework = contestant.adapter.name
        version = contestant.name.partition(" ")[0].removeprefix(f"{framework}==")
        return probe_case(
            self.workload,
            framework=framework,
            version=version,
            settings=self.settings,
            mode=contestant.mode,
        )

    def _largest(self) -> Contestant:
        """The contestant with the most devices, whose batches are the global ones."""
        return max(self.contestants, key=lambda one: one.mode.topology.world_size)

    def _result(
        self, contestant: Contestant, inputs_file: Path, inputs: Inputs, *, case: Case | None = None
    ) -> _Result:
        folder = self.folder / contestant.name.replace(" ", "_")
        contender = Contender(name=contestant.name, version=contestant.version)
        self.say(f"{contestant.name}: training {self.settings.steps} steps")
        try:
            finished = run_program(
                contestant,
                case or self._case(contestant),
                folder,
                inputs=inputs_file,
                time_limit_seconds=self.time_limit_seconds,
                interrupts=self.interrupts,
            )
            outputs = read_outputs(finished.outputs, inputs, steps=self.settings.steps)
        except Flaw as flaw:
            self.say(f"{contestant.name}: {flaw}")
            return _Result(contender=contender.model_copy(update={"error": str(flaw)}), outputs=None)
        self._opened.callback(outputs.close)
        self.say(f"{contestant.name}: done in {finished.seconds:.0f} s")
        done = {"seconds": round(finished.seconds, 1), "losses": outputs.losses}
        return _Result(contender=contender.model_copy(update=done), outputs=outputs)

    def _pair(self, first: _Result, second: _Result, inputs: Inputs) -> Pair:
        pair = Pair(first=first.contender.name, second=second.contender.name, passed=False)
        if first.outputs is None or second.outputs is None:
            flawed = (first if first.outputs is None else second).contender
            return pair.model_copy(update={"error": f"{flawed.name}: {flawed.error}"})
        found = figures(first.outputs, second.outputs, inputs)
        if passes(found, self.tolerance):
            return pair.model_copy(update={"passed": True, "figures": found})
        two = Two(
            first_name=pair.first,
            second_name=pair.second,
            first=first.outputs,
            second=second.outputs,
            inputs=inputs,
            case=self._case(self._largest()),
            tolerance=self.tolerance,
        )
        named = {"first_to_differ": first_to_differ(two), "culprit": culprit(two)}
        return pair.model_copy(update={"figures": found, **named})

    def _reference(
        self, results: dict[str, _Result], pairs: Sequence[Pair], inputs_file: Path, inputs: Inputs
    ) -> tuple[Pair, ...]:
        """Every contestant against PyTorch in float64; for `auto`, only where two disagree."""
        disagree = any(pair.figures and not pair.passed for pair in pairs)
        if self.reference == "never" or (self.reference == "auto" and not disagree):
            return ()
        engine = next((c for c in self.contestants if c.adapter.name == REFERENCE_FRAMEWORK), None)
        if engine is None:
            self.say(f"no reference in float64: it is computed by {REFERENCE_FRAMEWORK}, which takes no part")
            return ()
        # Eager, in NCHW and in one process: the plainest way through the engine.
        mode = self._largest().mode
        devices = mode.topology.world_size
        arbiter = replace(
            engine,
            name=REFERENCE,
            code=shipped_root(),
            mode=mode,
            arguments=("float64",),
            one_process=devices > 1,
        )
        case = self._case(replace(engine, mode=mode))
        case = case.model_copy(update={"options": {"channels_last": False, "compile": False}})
        result = self._result(arbiter, inputs_file, inputs, case=case)
        return tuple(self._pair(results[one.name], result, inputs) for one in self.contestants)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    contender: Contender
    outputs: Outputs | None
