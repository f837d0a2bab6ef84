"""The options that `plan` and `run` share: which sweep, what is laid over it, which cases are meant."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dlperf.adapters.base import Adapter
    from dlperf.plan.cluster import Cluster
    from dlperf.plan.load import Sweep
    from dlperf.plan.plan import Plan

F = TypeVar("F", bound="Callable[..., Any]")

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


def sweep_options(function: F) -> F:
    """Give a command the argument SWEEP and the options -k, --only, --exclude, -S, -P and --cluster.

    They arrive as `sweep: str`, `expression` and `cluster: str | None`, and tuples of text: `only`,
    `exclude`, `settings`, `axes`.
    """
    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), function)


def cluster_of(name: str | None) -> Cluster | None:
    """The cluster that --cluster names, checked; None where it names none."""
    from dlperf.plan.cluster import load_cluster

    return None if name is None else load_cluster(name)


def default_folder(plan: Plan, *, suffix: str = "") -> Path:
    """Where the results of a plan go; simulated ones never where measured ones do."""
    simulated = plan.cluster is not None and plan.cluster.simulated
    return Path("results") / ((f"simulated_{plan.sweep}" if simulated else plan.sweep) + suffix)


def plan_of(
    sweep: str, *, settings: tuple[str, ...], axes: tuple[str, ...], cluster: Cluster | None = None
) -> Plan:
    """The whole plan of a sweep on this machine or on a cluster, by the adapters of this installation.

    Raises:
        UserError: whatever is wrong with the files or the options.
    """
    from dlperf.adapters.registry import load_adapters
    from dlperf.plan.load import load_sweep
    from dlperf.plan.settings import axis_setting, value_setting

    laid_over = (*map(axis_setting, axes), *map(value_setting, settings))
    adapters = load_adapters()
    loaded = load_sweep(sweep, adapters=adapters, settings=laid_over)
    return plan_here(loaded, adapters=adapters, cluster=cluster)


def plan_here(loaded: Sweep, *, adapters: Mapping[str, Adapter], cluster: Cluster | None) -> Plan:
    """The plan of a loaded sweep on this machine, or on a cluster."""
    from dlperf.machine import detect_machine
    from dlperf.plan.plan import make_plan

    machine = detect_machine() if cluster is None else cluster.weakest
    return make_plan(loaded, adapters=adapters, machine=machine, cluster=cluster)
