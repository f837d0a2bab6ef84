"""Options and arguments that several commands have, and what they stand for."""

import gc
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce, wraps
from pathlib import Path
from typing import Any

import click

from dlperf.adapters.base import Adapter
from dlperf.adapters.registry import load_adapters
from dlperf.cli import completing
from dlperf.cli.terminal import say
from dlperf.errors import UserError
from dlperf.plan.cluster import Cluster, load_cluster
from dlperf.plan.documents import unknown
from dlperf.plan.load import Sweep, axis_setting, checkouts_of, load_sweep, value_setting
from dlperf.plan.machine import Machine, detect_machine
from dlperf.plan.plan import Plan, make_plan
from dlperf.plan.selection import select
from dlperf.plan.sweep import seconds_of
from dlperf.results.query import Loaded, load
from dlperf.running.supervision import Interrupted

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
RETRY_FAILED = click.option("--retry-failed", is_flag=True, help="Repeat failed runs.")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Show the plan and the command of every process; run nothing."
)
SETTINGS = click.option(
    "-S",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the sweep, such as measure.repeats=3. Repeatable.",
)
CLUSTER = click.option(
    "--cluster",
    "cluster_name",
    metavar="NAME|FILE",
    shell_complete=completing.files("cluster"),
    help="Run on the nodes of this cluster file.  [default: this machine]",
)


class Choice(click.Choice[str]):
    """One of several words; for another one the message has the nearest."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word; BadParameter where it is none of them."""
        if value not in self.choices:
            self.fail(unknown("value", value, self.choices), param, ctx)
        return value


DEVICE_CHOICE = Choice(["auto", "cpu", "cuda"])
NOISE_PROFILE = click.option(
    "--qualified",
    type=FILE,
    help="Noise profile of `dlperf qualify`.  [default: baselines/qualification.json, if any]",
)


NUMBER = click.types.IntParamType()
NUMBER.name = "n"


def at_least(minimum: int, *, most: int | None = None) -> click.IntRange:
    """The type of a whole number, which the help calls N."""
    number = click.IntRange(minimum, most)
    number.name = "n"
    return number


def all_of(*options: Decorator) -> Decorator:
    """Several options as one decorator; the first stands first in the help."""
    return lambda function: reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


def results_option(default: str) -> Decorator:
    """`--results`, which is None where it is not given; `default` is for the help."""
    return click.option("--results", type=PATH, help=f"Where results go.  [default: {default}]")


def format_option(*names: str) -> Decorator:
    """`--format`, as `form`; the first name is the default."""
    return click.option("--format", "form", type=Choice(names), default=names[0], help="Output format.")


CASE = all_of(
    click.argument("case", metavar="CASE", shell_complete=completing.cases),
    click.argument("folders", nargs=-1, metavar="[DIR]...", type=PATH),
)
CASE_HELP = """CASE is a case's id, its content hash (the last 12 digits of the id) or a part of the id that
no other case has. DIR is a results folder or the folder of one sweep (default: results)."""


def gathered(name: str, kind: Callable[..., Any], *options: Decorator) -> Decorator:
    """Options that a command gets as one argument `name`: a dataclass whose fields have their names."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(*arguments: Any, **given: Any) -> Any:
            names = {field.name for field in fields(kind)} & given.keys()  # type: ignore[arg-type]
            content = {name: given.pop(name) for name in names}
            return function(*arguments, **given, **{name: kind(**content)})

        return all_of(*options)(command)

    return decorate


@dataclass(frozen=True, kw_only=True)
class SweepChoice:
    """A sweep, what is laid over it, the cases that are selected, and where they run."""

    sweep: str
    expression: str | None
    only: tuple[str, ...]
    exclude: tuple[str, ...]
    settings: tuple[str, ...]
    axes: tuple[str, ...]
    sources: tuple[str, ...]
    data: Path | None
    cluster_name: str | None

    @cached_property
    def cluster(self) -> Cluster | None:
        """The cluster, checked; None for this machine."""
        return cluster_of(self.cluster_name)

    @property
    def has_options(self) -> bool:
        """Whether anything beside SWEEP was given."""
        laid_over = (self.settings, self.axes, self.sources, self.data)
        return any((self.expression, self.only, self.exclude, *laid_over, self.cluster_name))

    def plan(self, *more: str) -> Plan:
        """The whole plan, with `more` settings such as `measure.repeats=5` over those of -S.

        UserError where the files or the options are wrong.
        """
        ours = [replace(value_setting(text), label=f"--{text.rpartition('.')[2]}") for text in more]
        laid_over = (*map(axis_setting, self.axes), *map(value_setting, self.settings), *ours)
        adapters = load_adapters()
        loaded = load_sweep(
            self.sweep,
            adapters=adapters,
            settings=laid_over,
            checkouts=checkouts_of(self.sources, adapters=adapters),
            data=self.data,
        )
        return plan_here(loaded, adapters=adapters, cluster=self.cluster)

    def selected(self, plan: Plan) -> Plan:
        """The part of a plan that -k, --only and --exclude leave; UserError where that is nothing."""
        return select(plan, expression=self.expression, only=self.only, exclude=self.exclude)


SELECTION = all_of(
    click.option(
        "-k",
        "expression",
        metavar="EXPR",
        help="Only cases that match: part of the id, or 'framework==mxnet and nodes==1'.",
    ),
    click.option(
        "--only",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=completing.keys,
        help="Only cases with this value (or one of A,B). Repeatable.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=completing.keys,
        help="Skip cases with this value. Repeatable.",
    ),
)

SWEEP = gathered(
    "chosen",
    SweepChoice,
    click.argument("sweep", shell_complete=completing.files("sweep")),
    SELECTION,
    SETTINGS,
    click.option(
        "-P",
        "axes",
        multiple=True,
        metavar="AXIS=A,B",
        help="Set an axis of the sweep, such as topology=1n1g,1n2g. Repeatable.",
    ),
    click.option(
        "--source",
        "sources",
        multiple=True,
        metavar="NAME=DIR",
        help="Checkout of the original program that a framework runs. Repeatable.",
    ),
    click.option("--data", type=PATH, help="Data set in place of the one that the sweep names."),
    CLUSTER,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How runs are made: the fields are the options of their names, which `--help` describes."""

    retry_failed: bool = False
    no_wait: bool = False
    port: int | None = None
    wait_for_nodes_seconds: float | None = None
    wait_for_quiet_seconds: float = 0.0
    parallel_nodes: int = 1
    quiet: bool = False

    def words(self) -> list[str]:
        """The words of a command line that stand for these."""
        given = {
            "--retry-failed": self.retry_failed,
            "--no-wait": self.no_wait,
            "--quiet": self.quiet,
            f"--port={self.port}": self.port is not None,
            f"--wait-for-nodes={self.wait_for_nodes_seconds}s": self.wait_for_nodes_seconds is not None,
            f"--wait-for-quiet={self.wait_for_quiet_seconds}s": self.wait_for_quiet_seconds > 0,
            f"--parallel-nodes={self.parallel_nodes}": self.parallel_nodes > 1,
        }
        return [word for word, is_given in given.items() if is_given]


def running_options(*options: Decorator) -> Decorator:
    """The options of a command that makes runs, and `options`, as one argument `run_options`."""
    return gathered(
        "run_options",
        RunOptions,
        click.option("-q", "--quiet", is_flag=True, help="Print nothing while runs go on, only the summary."),
        click.option("--no-wait", is_flag=True, help="Fail at once if another dlperf is measuring there."),
        duration_option(
            "--wait-for-quiet",
            default="0s",
            help="How long to wait for other work on the machine to end before the first run, such as 5m.",
        ),
        *options,
    )


def duration_option(name: str, *, default: str | None, help: str) -> Decorator:  # noqa: A002 - click's word
    """An option such as `--wait 10m`, as `wait_seconds`."""

    def seconds(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
        try:
            return None if text is None else float(seconds_of(text))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    parameter = f"{name.removeprefix('--').replace('-', '_')}_seconds"
    return click.option(name, parameter, metavar="DURATION", default=default, callback=seconds, help=help)


ON_NODES = all_of(
    click.option(
        "--port",
        type=at_least(1024, most=65535),
        help="Port on which the ranks of a case connect.  [default: a free port per run]",
    ),
    click.option(
        "--parallel-nodes",
        type=at_least(1),
        default=1,
        help="Single-node cases to run at the same time, each on its own node of the cluster.",
    ),
    duration_option(
        "--wait-for-nodes",
        default=None,
        help="How long runs wait for nodes of the cluster: by default 10m for nodes that were lost, and for "
        "another dlperf until it ends.",
    ),
)


def cluster_of(name: str | None) -> Cluster | None:
    """The cluster that --cluster names, checked; None where it names none."""
    return None if name is None else load_cluster(name)


def require_known(option: str, kind: str, words: Iterable[str], known: Collection[str]) -> None:
    """UserError, which names the option, for the first of the words that is not known."""
    for word in words:
        if word not in known:
            raise UserError(f"{option}: {unknown(kind, word, known)}")


def names_of(text: str | None) -> tuple[str, ...]:
    """`a, b` as a tuple of names, without empty ones."""
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))


def default_folder(plan: Plan, *, suffix: str = "") -> Path:
    """Where the results of a plan go."""
    return Path("results") / (plan.sweep + suffix)


def machine_for(device: str) -> Machine:
    """This machine, on which `device` is wanted; warns where `auto` means the CPU as a driver is silent."""
    machine = detect_machine()
    if (
        (device, machine.device) == ("auto", "cpu")
        and shutil.which("nvidia-smi") is not None
        and "CUDA_VISIBLE_DEVICES" not in os.environ
    ):
        say(
            "warning: nvidia-smi is installed, but CUDA has no GPU, so device auto means the CPU; "
            "`dlperf doctor` says why"
        )
    return machine


def plan_here(loaded: Sweep, *, adapters: Mapping[str, Adapter], cluster: Cluster | None) -> Plan:
    """The plan of a loaded sweep on this machine, or on a cluster."""
    machine = machine_for(loaded.file.device) if cluster is None else cluster.weakest
    return make_plan(loaded, adapters=adapters, machine=machine, cluster=cluster)


def load_results(folders: Sequence[Path], *, strict: bool = False) -> Loaded:
    """The results under `folders`, by default `results`; names on standard error what it had to skip.

    UserError where there is no result, or with `strict` one that cannot be read.
    """
    loaded = load(folders or (Path("results"),), strict=strict)
    for skipped in loaded.results.skipped:
        say(f"dlperf: skipped {skipped}")
    return loaded


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """End the command with the exit code of the signal that stopped the runs in `folder`."""
    try:
        yield
    except Interrupted as interrupted:
        say(f"stopped; completed runs are kept in {folder}; the same command resumes")
        click.get_current_context().exit(interrupted.exit_code)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For a command that keeps what it reads until it ends.

    The search for cycles took a third of the time of a report of 10 000 results, and freed nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
