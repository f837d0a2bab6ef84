"""`align.json`: who agrees with whom at each stage of a training step, and what follows from that.

Everything that is printed is derived from what the file holds. Nothing is guessed: a participant is named
only where others, by a majority of frameworks, agree without it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar, get_args

from pydantic import AliasChoices, Field
from rich.table import Table
from rich.text import Text

from dlperf.files import read_document
from dlperf.model import Model
from dlperf.plan.case import Case, DataSet
from dlperf.wording import plural

REFERENCE: Final = "reference"  # its name in pairs
REFERENCE_FRAMEWORK: Final = "pytorch"  # whose program can compute in float64

# In the order in which a step computes them.
Stage = Literal["embeddings", "loss", "gradients", "step", "statistics", "later steps"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

_MAJORITY: Final = 2  # votes
_LISTED: Final = 4  # names, or kinds of parameter, that are listed in full


class Tolerance(Model):
    """Largest relative differences that pass; `dlperf docs alignment` says what each is relative to."""

    first_step: float = Field(default=1e-4, gt=0)
    """Of embeddings, loss and update of the first step."""
    after_steps: float = Field(default=1e-3, gt=0)
    """Of gradients, later losses and everything after all steps."""

    @classmethod
    def of_first_step(cls, first_step: float) -> Self:
        """Ten times as much for what comes after the first step, but a half at most: 1 would pass zeros."""
        return cls(first_step=first_step, after_steps=min(10 * first_step, max(0.5, first_step)))


class Worst(Model):
    """The array that differs most, and its relative difference."""

    name: str
    difference: float


class Figures(Model):
    """Relative differences of two participants."""

    embeddings: float
    losses: tuple[float, ...]  # one per step
    gradient_norm: Worst  # after the first backward pass
    first_step: Worst  # parameters and BatchNorm statistics after one step
    parameters: Worst  # after all steps
    statistics: Worst  # after all steps


class StageResult(Model):
    """How far two participants are apart at one stage."""

    stage: Stage
    difference: float  # the largest, relative
    # The first array beyond tolerance, in the order in which a step computes them; None where the two agree.
    # In the forward pass these are the statistics of each BatchNorm's input.
    first: str | None = None
    beyond: int = 0  # arrays beyond tolerance
    arrays: int = 1
    kinds: tuple[str, ...] = ()  # of parameter beyond tolerance, in words


class Pair(Model):
    """Two participants compared; without figures where one of them gave nothing to compare."""

    first: str
    second: str
    passed: bool
    figures: Figures | None = None
    stages: tuple[StageResult, ...] = ()  # in order; not in certificates of schema version 1
    first_to_differ: str | None = None  # of the first stage that differs
    # What explains every difference of that stage exactly; in schema version 1 a fitted guess.
    hint: str | None = Field(default=None, validation_alias=AliasChoices("hint", "culprit"))
    error: str | None = None

    def at(self, stage: Stage) -> StageResult:
        """How far the two are apart at a stage."""
        return self.stages[STAGES.index(stage)]


class ParticipantResult(Model):
    """One that took part; `error` says why it has no outputs."""

    name: str  # such as `mxnet==1.9.1`, or `mxnet==1.9.1 model 1n2g` of several devices
    version: str  # as the engine itself prints it
    seconds: float | None = None
    losses: tuple[float, ...] = ()
    defined_loss: float | None = None  # of step 1, computed from its embeddings by the definition
    error: str | None = None

    @property
    def framework(self) -> str:
        """Framework and version, such as `mxnet==1.9.1`."""
        return self.name.partition(" ")[0]

    @property
    def parallelism(self) -> str | None:
        """How it was spread over several devices; None where it ran on one."""
        _, _, mode = self.name.partition(" ")
        parallelism, _, topology = mode.partition(" ")
        return None if topology in {"", "1n1g"} else parallelism.partition("-")[0]


class ReaderPair(Model):
    """The first images of a data set as two frameworks' own readers give them, compared in order."""

    first: str
    second: str
    first_other_label: int | None = None  # the first image, from 0, whose labels differ; None: none
    largest: int | None = None  # difference of two pixels, of 255 levels; None: nothing to compare
    mean: float | None = None
    error: str | None = None


class Readers(Model):
    """A data set through every framework's own reader."""

    data: DataSet
    images: int  # that were compared
    largest_allowed: int  # difference of two pixels, of 255 levels
    pairs: tuple[ReaderPair, ...]

    def faults(self) -> tuple[str, ...]:
        """A line on each pair that does not read alike."""
        return tuple(fault for pair in self.pairs if (fault := self._fault(pair)))

    def _fault(self, pair: ReaderPair) -> str | None:
        who = f"the readers of {pair.first} and {pair.second}"
        if pair.error is not None:
            return f"{who} have nothing to compare: {pair.error}"
        if pair.first_other_label is not None:
            return f"{who} differ: another label from image {pair.first_other_label} on"
        if pair.largest is None or pair.largest > self.largest_allowed:
            return f"{who} differ: pixels by up to {pair.largest} of 255, more than {self.largest_allowed}"
        return None

    def summary(self) -> str:
        """How alike they read, where all do."""
        largest = max(pair.largest or 0 for pair in self.pairs)
        pixels = f", pixels at most {largest} of 255 apart" if largest else " and the same pixels"
        return f"{plural(self.images, 'image')} of {self.data.name} in one order with the same labels{pixels}"


class Certificate(Model):
    """The result of an alignment; `case` is what the participant with the most devices trained."""

    schema_version: Literal[1, 2] = 2
    dlperf_version: str
    created_at: str  # ISO 8601, UTC
    experiment: str
    experiment_hash: str  # of the experiment's workload as it was
    case: Case
    steps: int
    tolerance: Tolerance
    participants: tuple[ParticipantResult, ...] = Field(
        validation_alias=AliasChoices("participants", "contenders")
    )
    pairs: tuple[Pair, ...]
    reference: tuple[Pair, ...] = ()  # each participant against PyTorch in float64, where that ran
    readers: Annotated[Readers | None, Field(exclude_if=lambda readers: readers is None)] = None
    verdict: str  # one line
    passed: bool


def load_certificate(path: Path) -> Certificate:
    """Read a certificate, of this version or an older one; UserError where there is none."""
    remedy = "`dlperf align EXPERIMENT` writes a certificate"
    return read_document(path, Certificate, kind="certificate of `dlperf align`", remedy=remedy)


def faults(certificate: Certificate) -> tuple[str, ...]:
    """Who differs from whom and where first, and who has nothing to compare; () where all is well."""
    absent = {f"{one.name}: {one.error}": one.name for one in certificate.participants if one.error}
    lines = [*_Agreement(certificate).findings(), *(_absent(why) for why in absent)]
    own = dict.fromkeys(pair.error for pair in certificate.reference if pair.error)
    read = () if certificate.readers is None else certificate.readers.faults()
    return (*lines, *(_absent(f"the {why}") for why in own if why not in absent), *read)


def _absent(error: str) -> str:
    name, _, why = error.partition(": ")
    return f"{name} has nothing to compare: {why}"


def verdict(certificate: Certificate) -> str:
    """One line: the largest difference where all is well, else the faults."""
    pairs = certificate.pairs or certificate.reference
    losses = [pair.figures.losses for pair in pairs if pair.figures]
    read = "" if certificate.readers is None else f"; {certificate.readers.summary()}"
    return "; ".join(faults(certificate)) or (
        f"max loss difference {max(map(max, losses)):.0e} over {plural(len(losses[0]), 'step')}{read}"
    )


Item = TypeVar("Item")


def grouped(items: Sequence[Item], agree: Callable[[Item, Item], bool]) -> list[list[Item]]:
    """The items, each in the first group of which it agrees with all; the largest group first."""
    groups: list[list[Item]] = []
    for item in items:
        group = next((group for group in groups if all(agree(item, other) for other in group)), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return sorted(groups, key=len, reverse=True)


class _Agreement:
    """Who agrees with whom at each stage, and who stands alone."""

    def __init__(self, certificate: Certificate) -> None:
        pairs = (*certificate.pairs, *certificate.reference)
        self._pairs = {frozenset((pair.first, pair.second)): pair for pair in pairs if pair.stages}
        compared = {name for both in self._pairs for name in both}
        self.names = [one.name for one in certificate.participants if one.name in compared]
        self.names += [REFERENCE] if REFERENCE in compared else []
        # What is wrong with a first loss that is not what the definition gives for the embeddings behind it.
        self._loss_faults: dict[str, str | None] = {}
        for one in certificate.participants:
            if one.name in compared and one.defined_loss is not None:
                apart = abs(one.losses[0] - one.defined_loss) / max(one.defined_loss, 1e-30)
                fault = (
                    f"{one.name} computed {one.losses[0]:.6g}, the definition gives {one.defined_loss:.6g}"
                )
                self._loss_faults[one.name] = None if apart <= certificate.tolerance.first_step else fault

    def groups(self, stage: Stage, names: Sequence[str]) -> list[list[str]]:
        """The names, each with those that it agrees with; the largest group first."""
        return grouped(names, lambda one, other: self._agree(stage, one, other))

    def differing(self, stage: Stage, first: Sequence[str], second: Sequence[str]) -> Pair:
        """Of two groups the first two members that differ."""
        both = ((one, other) for one in first for other in second)
        return next(self._pairs[frozenset(pair)] for pair in both if not self._agree(stage, *pair))

    def _agree(self, stage: Stage, first: str, second: str) -> bool:
        return self._pairs[frozenset((first, second))].at(stage).first is None

    def findings(self) -> Iterator[str]:
        """A sentence about each group that stands alone, until the others agree or there is no majority."""
        names = self.names
        while True:
            every = ((stage, self.groups(stage, names)) for stage in STAGES)
            stage, groups = next(((stage, groups) for stage, groups in every if len(groups) > 1), (None, []))
            if stage is None:
                return
            majority = self._majority(stage, groups)
            if majority is None:
                yield self._sentence(stage, _undecided(groups), groups[0], groups[1:])
                return
            for group in groups:
                if group is not majority:
                    yield self._sentence(stage, _alone(group, majority), majority, [group])
            names = majority

    def _majority(self, stage: Stage, groups: list[list[str]]) -> list[str] | None:
        """The group with most votes, where it has at least two and all others differ from all of it.

        A framework has one vote, however many of its versions and modes take part, because they run the same
        program of ours; PyTorch shares its vote with the reference. Where only one framework takes part each
        participant has a vote. On the first loss the definition votes, too.
        """
        frameworks = {_framework(name) for group in groups for name in group}
        votes = []
        for group in groups:
            voters = set(map(_framework, group)) if len(frameworks) > 1 else set(group)
            known = [self._loss_faults[name] for name in group if name in self._loss_faults]
            votes.append(len(voters) + (stage == "loss" and bool(known) and not any(known)))
        best = groups[votes.index(max(votes))]
        rest = [name for group in groups if group is not best for name in group]
        apart = not any(self._agree(stage, name, other) for name in best for other in rest)
        return best if apart and max(votes) >= _MAJORITY and votes.count(max(votes)) == 1 else None

    def _sentence(self, stage: Stage, who: str, first: list[str], others: list[list[str]]) -> str:
        """Who differs, where first, and what is known about it besides."""
        pair = self.differing(stage, first, others[0])
        notes = []
        if stage == "loss":
            names = [*first, *(name for group in others for name in group)]
            notes += [fault for name in names if (fault := self._loss_faults.get(name))]
        if pair.hint is not None and len(others) == 1:
            notes.append(pair.hint)
        return "; ".join([f"{who}: {_where(pair.at(stage))}", *notes])


def _framework(name: str) -> str:
    return REFERENCE_FRAMEWORK if name == REFERENCE else name.partition("==")[0]


def _few(names: Sequence[str]) -> list[str]:
    """The names, or some of them and how many more there are."""
    more = len(names) - _LISTED
    return [*names] if more <= 0 else [*names[: _LISTED - 1], f"{more + 1} more"]


def listed(names: Sequence[str]) -> str:
    """Up to four names, or three and how many more there are, as in a sentence."""
    *rest, last = _few(names)
    return f"{', '.join(rest)} and {last}" if rest else last


def _alone(group: list[str], majority: list[str]) -> str:
    own = [name for name in group if name != REFERENCE] or group
    shared = f" (with the {REFERENCE}, which runs the same program)" if len(own) < len(group) else ""
    agree = f"{listed(majority)} agree" if len(majority) > 1 else f"{majority[0]} is as defined"
    return f"{listed(own)} {'stands alone' if len(own) == 1 else 'stand apart'}{shared} while {agree}"


def _undecided(groups: list[list[str]]) -> str:
    shared = any(REFERENCE in group and len(group) > 1 for group in groups)
    note = f" (the {REFERENCE} runs {REFERENCE_FRAMEWORK}'s program and settles nothing)" if shared else ""
    return f"{' | '.join(map(listed, groups))} differ, and there is no majority{note}"


def _where(result: StageResult) -> str:
    """The first stage that differs and the first array in it; all stages before it agree."""
    kinds = f" ({', '.join(result.kinds)})" if 0 < len(result.kinds) < _LISTED else ""
    number = f"{result.beyond} of {result.arrays}"
    texts: dict[Stage, str] = {
        "embeddings": f"the forward pass differs, first in {result.first}",
        "loss": "the embeddings agree, the first loss differs",
        "gradients": f"the loss agrees, {number} gradients differ{kinds}, backwards first {result.first}",
        "step": f"the gradients agree, {number} parameters differ after the first step{kinds}, "
        f"first {result.first}",
        "statistics": f"the parameters agree, {number} BatchNorm statistics differ after the first step, "
        f"first {result.first}",
        "later steps": f"the first step agrees, later steps differ, first in {result.first}",
    }
    return texts[result.stage]


def heading(certificate: Certificate) -> str:
    """What was compared and under which conditions."""
    case, workload = certificate.case, certificate.case.workload
    norms = ""
    if workload.batch_norm == "frozen":
        norms = "BatchNorm is frozen: it normalises by given statistics\n"
    elif case.topology.world_size > 1:
        images = case.global_batch_size // case.topology.world_size
        norms = f"BatchNorm normalises each device's {plural(images, 'image')} separately\n"
    return (
        f"{certificate.experiment}: {workload.network}, head {workload.head}, {workload.loss.kind}; "
        f"{plural(certificate.steps, 'step')} of {plural(case.global_batch_size, 'image')}, "
        f"{case.num_classes} classes, "
        f"{case.precision} on {case.device}\n"
        f"{norms}no dropout; weights and learning rate of the probe (`dlperf docs alignment`)\n"
        f"tolerance: {certificate.tolerance.first_step:g} in the first step, "
        f"{certificate.tolerance.after_steps:g} for gradients and later steps\n"
    )


def stage_table(certificate: Certificate) -> Table:
    """One line per stage: the largest relative difference, who agrees, and the first array that differs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("difference", justify="right")
    table.add_column("who agrees")
    table.add_column("first to differ")
    agreement = _Agreement(certificate)
    short = _short(agreement.names)
    pairs = [pair for pair in (*certificate.pairs, *certificate.reference) if pair.stages]
    for stage in STAGES if pairs else ():
        groups = agreement.groups(stage, agreement.names)
        first = agreement.differing(stage, *groups[:2]).at(stage).first if len(groups) > 1 else None
        cell = " | ".join(", ".join(_few([short[name] for name in group])) for group in groups)
        table.add_row(
            stage,
            f"{max(pair.at(stage).difference for pair in pairs):.0e}",
            Text("all", "green") if len(groups) == 1 else Text(cell, "red"),
            Text(first or ""),
        )
    return table


def _short(names: Sequence[str]) -> Mapping[str, str]:
    """Each name, without its version where each framework takes part in one version."""
    engines = {name.partition(" ")[0] for name in names if name != REFERENCE}
    if len({_framework(engine) for engine in engines}) < len(engines):
        return {name: name for name in names}
    return {name: re.sub("==[^ ]*", "", name) for name in names}


def conclusion(certificate: Certificate) -> str:
    """The verdict, or a line for each fault."""
    if certificate.passed:
        names = [one.name for one in certificate.participants if not one.error]
        who = f"{len(names)} participants" if certificate.pairs else f"{names[0]} and the {REFERENCE}"
        return f"aligned: {who}, {certificate.verdict}\n"
    return "".join(f"not aligned: {fault}\n" for fault in faults(certificate))
