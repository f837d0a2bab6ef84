"""The options that every command of a sweep has: which one, what is laid over it, which cases are meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import reduce, wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from dlperf.adapters.base import Adapter
from dlperf.plan.cluster import Cluster
from dlperf.plan.load import Sweep
from dlperf.plan.plan import Plan

R = TypeVar("R")

_OPTIONS = (
    click.argument("sweep"),
    click.option(
        "-k",
        "expression",
        metavar="EXPR",
        help="Only matching cases: a part of the id, or such as 'framework==mxnet and nodes==1'.",
    ),
    click.option(
        "--only", multiple=True, metavar="KEY=VALUE", help="Only cases with this value (or a,b). Repeatable."
    ),
    click.option("--exclude", multiple=True, metavar="KEY=VALUE", help="Leave these cases out. Repeatable."),
    click.option(
        "-S",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a key of the sweep: measure.repeats=3.",
    ),
    click.option(
        "-P", "axes", multiple=True, metavar="AXIS=A,B", help="Set an axis of the sweep: topology=1n1g,1n2g."
    ),
    click.option(
        "--cluster", metavar="NAME|FILE", help="Run on the nodes of this cluster file, not on this machine."
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
        from dlperf.adapters.registry import load_adapters
        from dlperf.plan.load import axis_setting, load_sweep, value_setting

        laid_over = (*map(axis_setting, self.axes), *map(value_setting, (*self.settings, *more)))
        adapters = load_adapters()
        loaded = load_sweep(self.sweep, adapters=adapters, settings=laid_over)
        return plan_here(loaded, adapters=adapters, cluster=self.cluster)

    def selected(self, plan: Plan) -> Plan:
        """The part of a plan that -k, --only and --exclude leave; UserError where that is nothing."""
        from dlperf.plan.selection import select

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
    from dlperf.plan.cluster import load_cluster

    return None if name is None else load_cluster(name)


def default_folder(plan: Plan, *, suffix: str = "") -> Path:
    """Where the results of a plan go."""
    return Path("results") / (plan.sweep + suffix)


def plan_here(loaded: Sweep, *, adapters: Mapping[str, Adapter], cluster: Cluster | None) -> Plan:
    """The plan of a loaded sweep on this machine, or on a cluster."""
    from dlperf.plan.machine import detect_machine
    from dlperf.plan.plan import make_plan

    machine = detect_machine() if cluster is None else cluster.weakest
    return make_plan(loaded, adapters=adapters, machine=machine, cluster=cluster)
