"""The options that every command of a sweep has: which one, what is laid over it, which cases are meant."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import reduce, wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from dlperf.adapters.base import Adapter
from dlperf.adapters.registry import load_adapters
from dlperf.plan.cluster import Cluster, load_cluster
from dlperf.plan.load import Sweep, axis_setting, load_sweep, value_setting
from dlperf.plan.machine import detect_machine
from dlperf.plan.plan import Plan, make_plan
from dlperf.plan.selection import select
from dlperf.results.query import Loaded, load
from dlperf.running.supervision import Interrupted

R = TypeVar("R")

_OPTIONS = (
    click.argument("sweep"),
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
        help="Only cases with this value (or one of A,B). Repeatable.",
    ),
    click.option(
        "--exclude", multiple=True, metavar="KEY=VALUE", help="Skip cases with this value. Repeatable."
    ),
    click.option(
        "-S",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a key of the sweep, such as measure.repeats=3. Repeatable.",
    ),
    click.option(
        "-P",
        "axes",
        multiple=True,
        metavar="AXIS=A,B",
        help="Set an axis of the sweep, such as topology=1n1g,1n2g. Repeatable.",
    ),
    click.option(
        "--cluster",
        metavar="NAME|FILE",
        help="Run on the nodes of this cluster file.  [default: this machine]",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepChoice:
    """What these options say; `cluster` is loaded and checked, None for this machine."""

    sweep: str
    expression: str | None
    only: tuple[str, ...]
    exclude: tuple[str, ...]
    settings: tuple[str, ...]
    axes: tuple[str, ...]
    cluster: Cluster | None

    @property
    def has_options(self) -> bool:
        """Whether anything beside SWEEP was given."""
        given = (self.expression, self.only, self.exclude, self.settings, self.axes, self.cluster)
        return any(one is not None and one != () for one in given)

    def plan(self, *more: str) -> Plan:
        """The whole plan, with `more` settings such as `measure.repeats=5` over those of -S.

        Raises:
            UserError: whatever is wrong with the files or the options.
        """
        laid_over = (*map(axis_setting, self.axes), *map(value_setting, (*self.settings, *more)))
        adapters = load_adapters()
        loaded = load_sweep(self.sweep, adapters=adapters, settings=laid_over)
        return plan_here(loaded, adapters=adapters, cluster=self.cluster)

    def selected(self, plan: Plan) -> Plan:
        """The part of a plan that -k, --only and --exclude leave; UserError where that is nothing."""
        return select(plan, expression=self.expression, only=self.only, exclude=self.exclude)


def sweep_options(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command the argument SWEEP and its options; they arrive as `chosen`, a SweepChoice."""
    names = {one.name for one in fields(SweepChoice)}

    @wraps(function)
    def with_choice(*arguments: Any, **options: Any) -> R:
        given = {name: options.pop(name) for name in names}
        chosen = SweepChoice(**given | {"cluster": cluster_of(given["cluster"])})
        return function(*arguments, chosen=chosen, **options)

    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), with_choice)


def cluster_of(name: str | None) -> Cluster | None:
    """The cluster that --cluster names, checked; None where it names none."""
    return None if name is None else load_cluster(name)


def default_folder(plan: Plan, *, suffix: str = "") -> Path:
    """Where the results of a plan go."""
    return Path("results") / (plan.sweep + suffix)


def plan_here(loaded: Sweep, *, adapters: Mapping[str, Adapter], cluster: Cluster | None) -> Plan:
    """The plan of a loaded sweep on this machine, or on a cluster."""
    machine = detect_machine() if cluster is None else cluster.weakest
    return make_plan(loaded, adapters=adapters, machine=machine, cluster=cluster)


def load_results(folders: tuple[Path, ...], *, strict: bool = False) -> Loaded:
    """The results under `folders`, by default `results`; names on standard error what it had to skip.

    Raises:
        UserError: there is no result, or with `strict` one that cannot be read.
    """
    loaded = load(folders or (Path("results"),), strict=strict)
    for skipped in loaded.results.skipped:
        click.echo(f"dlperf: skipped {skipped}", err=True)
    return loaded


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """End the command with the exit code of the signal that stopped the runs in `folder`."""
    try:
        yield
    except Interrupted as interrupted:
        click.echo(f"stopped; completed runs are kept in {folder}; the same command resumes", err=True)
        click.get_current_context().exit(interrupted.exit_code)


@contextmanager
def cycles_left_alone() -> Iterator[None]:
    """Search for no cycles in here: for a command that keeps what it reads until it ends.

    The search walks everything that is kept, again and again as it grows: a third of the time of a report of
    10 000 results, which freed nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
