"""`dlperf align`: proof that the frameworks compute the same function."""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, cast, get_args

import click
from click.core import ParameterSource
from pydantic import TypeAdapter, ValidationError

from dlperf.adapters.base import Adapter
from dlperf.adapters.registry import load_adapters
from dlperf.align.certificate import (
    REFERENCE_FRAMEWORK,
    Certificate,
    Tolerance,
    conclusion,
    heading,
    stage_table,
)
from dlperf.align.participants import (
    Framework,
    Mode,
    Settings,
    certificate_name,
    comparable_modes,
    participants_of,
)
from dlperf.align.programs import INPUTS_NAME, Alignment, ReferenceMode
from dlperf.cli import completing
from dlperf.cli.options import DEVICE_CHOICE, JSON, PATH, Choice, at_least, machine_for, require_known
from dlperf.cli.terminal import echo, rendered, say, say_in_a_signal_handler, write_data
from dlperf.errors import UserError
from dlperf.files import write_atomically
from dlperf.layout import EQUALITY_NAME
from dlperf.plan.case import DataSet, DeviceKind, Parallelism, Precision, Topology
from dlperf.plan.cluster import load_cluster
from dlperf.plan.compatibility import refusal
from dlperf.plan.data_sets import data_set
from dlperf.plan.load import load_experiment, origin_of
from dlperf.plan.machine import Gpu, Machine
from dlperf.plan.sweep import DataEntry, FrameworkEntry, FrameworkReference
from dlperf.plan.versions import specification_of
from dlperf.running.run_folder import whole_machine
from dlperf.running.supervision import Interrupted, Interrupts
from dlperf.wording import plural

if TYPE_CHECKING:
    from dlperf.align.nodes import NodeEquality

EXIT_ALIGNED, EXIT_BROKEN = 0, 1

# Of the first step by precision; docs/alignment.md has what was measured.
TOLERANCES: Final[dict[Precision, float]] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
_TOLERANCES_TEXT = ", ".join(f"{tolerance:g} in {precision}" for precision, tolerance in TOLERANCES.items())

_EPILOG = """\b
Examples:
  dlperf align y1_emore
  dlperf align r100_emore --frameworks mxnet==1.9.1,pytorch
  dlperf align y1_emore --frameworks mxnet==1.9.1,mxnet==1.9.0 --out results/mxnet
  dlperf align y1_emore --frameworks 'mxnet, mxnet @ dist/mxnet-1.9.2-py3-none-any.whl'
  dlperf align r100_glint360k --reference always --json
  dlperf align r100_emore --frameworks pytorch --reference always --precision bf16
  dlperf align y1_emore --parallelism data,model,partial_fc --topology 1n2g
  dlperf align y1_emore --parallelism model --topology 1n1g,1n2g --frozen-batch-norm
  dlperf align y1_emore --parallelism partial_fc --topology 1n2g --sample-ratio 0.1
  dlperf align y1_emore --data faces
  dlperf align y1_emore --cluster gpus

EXPERIMENT is a path, the name of a file in ./experiments, or an experiment that ships with dlperf.

All frameworks get the same weights and batches, made by numpy, and train some steps. Then embeddings,
losses, gradients, parameters and BatchNorm statistics are compared, across frameworks and across the
requested parallelisms. The result is saved as align.json (of several devices as align-MODES.json), which
`dlperf report` shows. `dlperf docs alignment` says what is compared and how to read the output.

With --cluster the nodes are compared, not the frameworks: each node trains every framework alone, on one
device. A node that computes something else is named; the result is saved as equality.json.

Exit codes: 0 aligned, 1 not aligned or not comparable, 2 wrong input, 5 infrastructure, 130 Ctrl-C."""


_KEPT: Final = "align"
_REFERENCE: TypeAdapter[FrameworkEntry] = TypeAdapter(FrameworkReference)


class _Finite(click.FloatRange):
    """A range without `nan`, which compares as neither too small nor too large, and without `inf`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        return number if math.isfinite(number) else self.fail(f"{value} is no finite number.", param, ctx)


@click.command(epilog=_EPILOG)
@click.argument("experiment", shell_complete=completing.files("experiment"))
@click.option(
    "--frameworks",
    shell_complete=completing.frameworks,
    metavar="NAME==VERSION,...",
    help="Frameworks to align: NAME, NAME==VERSION, 'NAME @ WHEEL', 'NAME==VERSION @ INDEX' or "
    "'NAME==VERSION @ find-links=PLACE'.  "
    "[default: every framework that can be aligned]",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="NAME=PATH",
    help="Your own interpreter for a framework. Repeatable.",
)
@click.option("--steps", type=at_least(1), default=5, help="Steps to train.")
@click.option(
    "--batch-size", type=at_least(2), help="Images per step and device.  [default: 2, or 4 for mobilefacenet]"
)
@click.option(
    "--parallelism",
    "parallelisms",
    default="data",
    metavar="NAME,...",
    help="Any of data, model, partial_fc; each is compared with each.",
)
@click.option(
    "--topology",
    "topologies",
    default="1n1g",
    metavar="NnGg,...",
    help="Devices of this machine, such as 1n2g; several topologies need --frozen-batch-norm.",
)
@click.option(
    "--sample-ratio",
    type=_Finite(min=0, max=1, min_open=True),
    default=1.0,
    help="Sample ratio of partial_fc; below 1, only partial_fc is compared, across frameworks.",
)
@click.option(
    "--frozen-batch-norm",
    is_flag=True,
    help="Normalise with given statistics, so that the function is the same on any number of devices.",
)
@click.option(
    "--num-classes",
    type=at_least(2),
    default=1000,
    help="Number of classes; fewer than in the experiment are enough.",
)
@click.option("--seed", type=at_least(0), default=0, help="Seed of weights and batches.")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp32",
    help="What the network computes in; fp16 and bf16 are for pytorch alone, against its reference.",
)
@click.option(
    "--tolerance",
    type=_Finite(min=0, min_open=True),
    help="Largest relative difference in the first step; gradients and later steps may "
    f"differ ten times as much.  [default: {_TOLERANCES_TEXT}]",
)
@click.option(
    "--reference",
    type=Choice(["auto", "always", "never"]),
    default="auto",
    help="Add PyTorch in float64 as a participant; auto: if two participants differ.",
)
@click.option(
    "--data",
    "data_folder",
    metavar="DIR",
    type=PATH,
    help="Compare the frameworks' own readers too, on the data set in DIR.",
)
@click.option(
    "--cluster",
    "cluster_name",
    metavar="CLUSTER",
    shell_complete=completing.files("cluster"),
    help="Compare the nodes of this cluster file, on their device, instead of the frameworks.",
)
@click.option("--device", type=DEVICE_CHOICE, default="auto", help="Device to train on.")
@click.option(
    "--time-limit", metavar="SECONDS", type=_Finite(min=1), default=1800, help="Time limit per program."
)
@click.option(
    "-o", "--out", metavar="DIR", type=PATH, help="Folder for align.json.  [default: results/EXPERIMENT]"
)
@click.option(
    "--keep", is_flag=True, help="Keep all arrays and logs in the folder `align` next to align.json."
)
@JSON
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
    tolerance: float | None,
    reference: ReferenceMode,
    data_folder: Path | None,
    cluster_name: str | None,
    device: Literal["auto", "cpu", "cuda"],
    time_limit: float,
    out: Path | None,
    keep: bool,
    as_json: bool,
    **chosen: Any,  # the fields of `Settings` that have the same name
) -> None:
    """Prove that the frameworks compute the same function on EXPERIMENT, or name what differs."""
    if cluster_name is not None:
        for name in _OF_FRAMEWORKS:
            if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
                option = next(one.opts[0] for one in command.params if one.name == name)
                raise UserError(f"--cluster: each node trains alone on its own device; leave {option} out")
        nodes_command(
            experiment,
            cluster_name,
            asked=(frameworks, pythons),
            tolerance=tolerance,
            time_limit=time_limit,
            out=out,
            as_json=as_json,
            chosen=chosen,
        )
    machine = machine_for(device)
    frozen, precision = chosen["frozen_batch_norm"], chosen["precision"]
    modes = _modes(parallelisms, topologies, sample_ratio, frozen_batch_norm=frozen)
    devices = max(mode.topology.world_size for mode in modes)
    kind = machine.device if device == "auto" else device
    settings = Settings(**chosen, cores=machine.cores, global_devices=devices, device=kind)
    workload = load_experiment(experiment)[0].workload
    asked = frameworks_of(
        frameworks,
        pythons,
        adapters=load_adapters(),
        device=kind,
        parallel=devices > 1,
        gpu=machine.gpu,
    )
    _check(asked, modes, settings, reference, machine)
    data = None if data_folder is None else _data_of(data_folder, asked)
    folder = _created(out or Path("results") / workload.experiment)
    with _interruptible_work(folder, keep=keep) as (held, work_folder, interrupts):
        participants, absent = participants_of(asked, modes, held=held, say=_say)
        held.enter_context(whole_machine(wait=True, say=_say))
        certificate = Alignment(
            workload=workload,
            participants=participants,
            settings=settings,
            tolerance=Tolerance.of_first_step(tolerance or TOLERANCES[precision]),
            reference=reference,
            time_limit_seconds=time_limit,
            folder=work_folder,
            interrupts=interrupts,
            say=_say,
            absent=absent,
            data=data,
        ).certificate()
    if not as_json:
        echo(heading(certificate), rendered(stage_table(certificate)), "", conclusion(certificate).rstrip())
    name = certificate_name(modes, frozen_batch_norm=frozen, precision=precision)
    _save(certificate, folder / name, what="certificate", as_json=as_json)


# What has no meaning where nodes are compared.
_OF_FRAMEWORKS: Final = (
    "parallelisms",
    "topologies",
    "sample_ratio",
    "frozen_batch_norm",
    "reference",
    "data_folder",
    "device",
    "keep",
)


def nodes_command(
    experiment: str,
    cluster_name: str,
    *,
    asked: tuple[str | None, tuple[str, ...]],
    tolerance: float | None,
    time_limit: float,
    out: Path | None,
    as_json: bool,
    chosen: Mapping[str, Any],
) -> NoReturn:
    """Compare the nodes of a cluster, print what was found, and end with its exit code."""
    from dlperf.align.nodes import NodeAlignment, lines
    from dlperf.running.cluster import held as held_nodes  # paramiko takes its time

    cluster = load_cluster(cluster_name)
    if len(cluster.nodes) < 2:  # noqa: PLR2004
        raise UserError(f"{cluster.path}: has one node; two or more can be compared")
    machine, frameworks = cluster.weakest, load_adapters()
    found = frameworks_of(*asked, adapters=frameworks, device=machine.device, parallel=False, gpu=machine.gpu)
    if chosen["precision"] != "fp32" and {one.adapter.name for one in found} != {REFERENCE_FRAMEWORK}:
        raise UserError(f"--precision {chosen['precision']}: take --frameworks {REFERENCE_FRAMEWORK}")
    workload = load_experiment(experiment)[0].workload
    folder = _created(out or Path("results") / workload.experiment)
    with _interruptible_work(folder, keep=False) as (held, work_folder, interrupts):
        result = NodeAlignment(
            workload=workload,
            frameworks=found,
            cluster=cluster.name,
            nodes=held.enter_context(held_nodes(cluster, wait=True, say=_say)),
            settings=Settings(**chosen, cores=machine.cores, device=machine.device),
            tolerance=Tolerance.of_first_step(tolerance or TOLERANCES[chosen["precision"]]),
            time_limit_seconds=time_limit,
            folder=work_folder,
            interrupts=interrupts,
            say=_say,
        ).result()
    if not as_json:
        echo(*lines(result))
    _save(result, folder / EQUALITY_NAME, what="saved", as_json=as_json)


@contextmanager
def _interruptible_work(folder: Path, *, keep: bool) -> Iterator[tuple[ExitStack, Path, Interrupts]]:
    """What ends with the work, the folder of its files, and what may stop it, and then the command."""
    interrupts = Interrupts(say=say_in_a_signal_handler)
    try:
        with ExitStack() as held:
            held.enter_context(interrupts.handled())
            yield held, _work_folder(folder, keep=keep, held=held), interrupts
    except Interrupted as interrupted:
        say("stopped; nothing was saved")
        click.get_current_context().exit(interrupted.exit_code)


def _save(result: "Certificate | NodeEquality", path: Path, *, what: str, as_json: bool) -> NoReturn:
    """Write what was found, print it too as JSON or say where it is, and end with the exit code."""
    text = result.model_dump_json(indent=1) + "\n"
    if as_json:
        write_data(text)
    write_atomically(path, text.encode())
    (say if as_json else echo)(f"{what}: {path}")
    click.get_current_context().exit(EXIT_ALIGNED if result.passed else EXIT_BROKEN)


def _data_of(folder: Path, frameworks: Sequence[Framework]) -> DataSet:
    """The data set that the readers are compared on; UserError where there are no two of them, or no set."""
    if len(frameworks) < 2:  # noqa: PLR2004
        raise UserError("--data: give two or more frameworks, whose readers can be compared")
    try:
        return data_set(DataEntry(path=str(folder.absolute())))
    except UserError as error:
        raise UserError(f"--data: {error}") from None


def _modes(
    parallelisms: str, topologies: str, sample_ratio: float, *, frozen_batch_norm: bool
) -> tuple[Mode, ...]:
    known: tuple[Parallelism, ...] = get_args(Parallelism)
    names = list(dict.fromkeys(part.strip() for part in parallelisms.split(",")))
    require_known("--parallelism", "parallelism", names, known)
    try:
        chosen = [Topology.from_text(part.strip()) for part in topologies.split(",")]
    except ValueError as error:
        raise UserError(f"--topology: {error}") from error
    return comparable_modes(
        cast("list[Parallelism]", names),
        list(dict.fromkeys(chosen)),
        sample_ratio=sample_ratio,
        frozen_batch_norm=frozen_batch_norm,
    )


def frameworks_of(
    frameworks: str | None,
    pythons: Sequence[str],
    *,
    adapters: Mapping[str, Adapter],
    device: DeviceKind,
    parallel: bool,
    gpu: Gpu | None = None,
) -> tuple[Framework, ...]:
    """What `--frameworks` and `--python` name; without the former every framework.

    UserError where an option is wrong, with its name.
    """
    own = {}
    for text in pythons:
        name, separator, path = text.partition("=")
        if not (name and separator and path):
            raise UserError(f"--python: {text!r} is no NAME=PATH; write mxnet=/path/to/python")
        own[name] = path
    every = [name for name, adapter in adapters.items() if adapter.alignable]
    asked = every if frameworks is None else [part.strip() for part in frameworks.split(",")]
    entries = [_entry(text, own, adapters) for text in asked]
    for entry in entries:
        if not adapters[entry.name].alignable:
            raise UserError(
                f"--frameworks: {entry.name} cannot be aligned: its program takes no weights and batches of "
                f"ours; frameworks that can be: {', '.join(every)}"
            )
    stray = sorted(set(own) - {entry.name for entry in entries})
    if stray:
        raise UserError(f"--python: {stray[0]} is not among the frameworks to align")
    chosen = tuple(
        _framework(entry, adapters[entry.name], device, parallel=parallel, gpu=gpu) for entry in entries
    )
    if len({framework.name for framework in chosen}) < len(chosen):
        raise UserError("--frameworks: one of them is given twice")
    return chosen


def _entry(text: str, pythons: Mapping[str, str], adapters: Mapping[str, Adapter]) -> FrameworkEntry:
    try:
        entry = _REFERENCE.validate_python(text, context={"frameworks": adapters})
        content: dict[str, Any] = {**entry.model_dump(), "python": pythons.get(entry.name)}
        return FrameworkEntry.model_validate(content, context={"frameworks": adapters})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        # Without the rest of the text: the URL of an index is refused where it holds what could be a secret.
        name, at, _ = text.partition(" @ ")
        raise UserError(f"--frameworks: {f'{name}: ' if at else ''}{why}") from None


def _framework(
    entry: FrameworkEntry, adapter: Adapter, device: DeviceKind, *, parallel: bool, gpu: Gpu | None
) -> Framework:
    try:
        origin = origin_of(entry, folder=Path.cwd(), adapter=adapter)
        version = origin.label if origin else entry.version or adapter.versions[0]
        spec = specification_of(
            version,
            adapter=adapter,
            device=device,
            parallel=parallel,
            gpu=gpu,
            origin=origin,
            own_python=entry.python is not None,
        )
    except ValueError as error:
        raise UserError(f"--frameworks: {error}") from error
    python = Path(entry.python).expanduser().absolute() if entry.python else None
    return Framework(name=f"{entry.name}=={version}", adapter=adapter, spec=spec, python=python)


def _check(
    frameworks: Sequence[Framework],
    modes: Sequence[Mode],
    settings: Settings,
    reference: ReferenceMode,
    machine: Machine,
) -> None:
    """UserError for what cannot be compared, before anything is written or started."""
    devices, classes = settings.global_devices, settings.num_classes
    for one in frameworks:
        if one.python is not None and not os.access(one.python, os.X_OK):
            name = one.adapter.name
            raise UserError(f"--python: {one.python} is not an executable; name a Python that has {name}")
    names = {one.adapter.name for one in frameworks}
    if len(frameworks) * len(modes) + (reference == "always") < 2:  # noqa: PLR2004
        raise UserError(
            "--frameworks: give two or more different frameworks or versions to compare, or pytorch alone "
            "with --reference always"
        )
    if settings.precision != "fp32" and names != {REFERENCE_FRAMEWORK}:
        raise UserError(
            f"--precision {settings.precision}: only {REFERENCE_FRAMEWORK} is aligned in it; take "
            f"--frameworks {REFERENCE_FRAMEWORK} --reference always"
        )
    if settings.device == "cuda" and devices > len(machine.gpus):
        raise UserError(
            f"--topology: needs {plural(devices, 'GPU')}; this machine has {len(machine.gpus) or 'none'}"
        )
    for framework in frameworks:
        unfit = refusal(framework.spec, machine.gpus[:devices], adapter=framework.adapter)
        if unfit is not None and settings.device == "cuda" and framework.python is None:
            raise UserError(f"--frameworks: {unfit}")
    if any(classes < mode.topology.world_size for mode in modes if mode.parallelism != "data"):
        raise UserError(f"--num-classes: {classes} cannot be split over {devices} devices; take more")
    if reference == "always" and REFERENCE_FRAMEWORK not in names:
        raise UserError(
            f"--reference always: {REFERENCE_FRAMEWORK} computes the reference; add it to --frameworks"
        )


def _created(folder: Path) -> Path:
    if folder.suffix == ".json":
        raise UserError(f"{folder}: --out takes the folder for {folder.name}: --out {folder.parent}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; choose another folder with --out DIR") from error
    return folder


def _work_folder(folder: Path, *, keep: bool, held: ExitStack) -> Path:
    """Where the programs' files go: beside the certificate, as they may be too large for /tmp."""
    for leftover in folder.glob(".align-*-*"):
        if not Path("/proc", leftover.name.split("-")[1]).exists():
            shutil.rmtree(leftover, ignore_errors=True)  # gigabytes, of a dlperf that was killed
    if not keep:
        temporary = tempfile.TemporaryDirectory(prefix=f".align-{os.getpid()}-", dir=folder)
        return Path(held.enter_context(temporary))
    kept = folder / _KEPT
    if kept.exists() and not (kept / INPUTS_NAME).is_file():
        raise UserError(f"{kept} is not a folder of an alignment; remove it, or choose another --out DIR")
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    return kept


def _say(text: str) -> None:
    say(f"dlperf: {text}")
