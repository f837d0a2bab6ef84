"""`dlperf env`: the isolated Python environments in which the frameworks run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import click
from rich.table import Table
from rich.text import Text

from dlperf.adapters.base import EnvironmentSpec
from dlperf.adapters.registry import load_adapters
from dlperf.cli.tables import rendered
from dlperf.environments.catalogue import Entry, entries, entries_named, problems
from dlperf.environments.catalogue import remove as remove_entry
from dlperf.environments.environment import environment_key, environments_root, read_environment
from dlperf.environments.make import make
from dlperf.errors import EnvironmentUnavailable, UserError
from dlperf.plan.case import DeviceKind
from dlperf.plan.documents import unknown
from dlperf.plan.machine import detect_machine

_BYTES_PER_GIB = 1024**3

_device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Build of the framework; auto: cuda if there is an NVIDIA GPU, else cpu.",
)
_parallel_option = click.option(
    "--parallel", is_flag=True, help="Include what cases on several devices need (MXNet: Horovod)."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


_EPILOG = """\b
Examples:
  dlperf env create mxnet==1.9.1
  dlperf env list
  $(dlperf env path pytorch) -c 'import torch; print(torch.__version__)'
  dlperf env doctor
  dlperf env remove oneflow"""


@click.group(epilog=_EPILOG)
def command() -> None:
    """List, create and remove framework environments.

    `dlperf run` makes the ones it needs on first use; these commands do it before, look at them, and clean
    up. They lie in the user's cache folder, or under $DLPERF_CACHE.
    """


@command.command(name="list")
@_json_option
def list_environments(*, as_json: bool) -> None:
    """List the environments on this machine."""
    found = entries()
    if as_json:
        click.echo(json.dumps([_as_json(entry) for entry in found], indent=2))
        return
    if not found:
        click.echo("no environments yet; create one: dlperf env create NAME", err=True)
        return
    click.echo(_table(found), nl=False)


@command.command()
@click.argument("name", metavar="NAME[==VERSION]")
@_device_option
@_parallel_option
@click.option(
    "--python", type=click.Path(path_type=Path), help="Python interpreter to build the environment with."
)
def create(*, name: str, device: str, parallel: bool, python: Path | None) -> None:
    """Create an environment now.

    Prints the path of its interpreter. Without a version, the one that the framework's adapter names first.
    An environment that is already there is left as it is.
    """
    spec = _spec(name, device, parallel=parallel)
    # Looked for first: whoever makes one waits for the sweeps that use it.
    environment = read_environment(environments_root() / environment_key(spec)) or make(
        spec, base=python, report=lambda line: click.echo(line, err=True)
    )
    click.echo(environment.python)


@command.command()
@click.argument("name", metavar="NAME[==VERSION]")
@_device_option
@_parallel_option
def path(*, name: str, device: str, parallel: bool) -> None:
    """Print the path of an interpreter.

    Exit code 5 where its environment is not made yet.
    """
    spec = _spec(name, device, parallel=parallel)
    environment = read_environment(environments_root() / environment_key(spec))
    if environment is None:
        wanted = f"{spec.framework}=={spec.version}"
        option = " --parallel" if parallel else ""
        raise EnvironmentUnavailable(
            f"{wanted} has no environment here yet; create it: dlperf env create {wanted}{option}"
        )
    click.echo(environment.python)


@command.command()
@click.argument("names", metavar="NAME[==VERSION]...", nargs=-1, required=True)
def remove(*, names: tuple[str, ...]) -> None:
    """Remove environments from the disk.

    A framework's, those of one version, or one by its key; not while it is in use.
    """
    for entry in _named(names):
        remove_entry(entry)
        click.echo(f"removed {entry.key}", err=True)


@command.command()
@click.argument("names", metavar="[NAME[==VERSION]]...", nargs=-1)
@_json_option
@click.pass_context
def doctor(ctx: click.Context, *, names: tuple[str, ...], as_json: bool) -> None:
    """Check what is installed.

    Compares the packages and their files with what was recorded, and imports the framework again. Exit code 5
    if an environment is not what it was or does not work.
    """
    found = {entry.key: problems(entry) for entry in (_named(names) if names else entries())}
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for key, wrong in found.items():
            click.echo(f"{key}: {'ok' if not wrong else ''}".rstrip())
            for line in wrong:
                click.echo(f"  {line}")
            if wrong:
                click.echo(f"  to recreate it on next use: dlperf env remove {key}")
    ctx.exit(EnvironmentUnavailable.exit_code if any(found.values()) else 0)


def _spec(name: str, device: str, *, parallel: bool) -> EnvironmentSpec:
    """What the adapter asks for; `name` is `mxnet` or `mxnet==1.9.1`."""
    framework, separator, version = name.partition("==")
    adapters = load_adapters()
    if framework not in adapters:
        raise UserError(unknown("framework", framework, adapters))
    adapter = adapters[framework]
    if separator and not version:
        raise UserError(f"{name!r} names no version; write for example {framework}=={adapter.versions[0]}")
    built_for = detect_machine().device if device == "auto" else cast("DeviceKind", device)
    try:
        return adapter.environment(version or adapter.versions[0], built_for, parallel=parallel)
    except ValueError as error:
        raise UserError(str(error)) from error


def _named(names: tuple[str, ...]) -> list[Entry]:

    found: dict[str, Entry] = {}
    for name in names:
        matching = entries_named(name)
        if not matching:
            here = ", ".join(entry.key for entry in entries()) or "none"
            raise UserError(f"no environment is called {name!r}; there are: {here}")
        found |= {entry.key: entry for entry in matching}
    return list(found.values())


def _as_json(entry: Entry) -> dict[str, object]:
    manifest = entry.environment.manifest if entry.environment else None
    return {
        "key": entry.key,
        "root": str(entry.root),
        "size_bytes": entry.size_bytes,
        "manifest": manifest.model_dump(mode="json") if manifest else None,
    }


def _table(found: tuple[Entry, ...]) -> str:

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("framework", "Python", "packages", "GiB", "made", "key"):
        table.add_column(heading, justify="right" if heading in ("packages", "GiB") else "left")
    for entry in found:
        size = f"{entry.size_bytes / _BYTES_PER_GIB:.2f}"
        if entry.environment is None:
            cells = ("broken", "", "", size, "", entry.key)
        else:
            manifest = entry.environment.manifest
            cells = (
                f"{manifest.spec.framework} {manifest.version}{_origin(manifest.spec)}",
                manifest.python_version,
                str(len(manifest.packages)),
                size,
                manifest.created_at,
                entry.key,
            )
        table.add_row(*(Text(cell) for cell in cells))
    return rendered(table)


def _origin(spec: EnvironmentSpec) -> str:
    """What tells an environment from that of the same version from its usual place."""
    if spec.wheel is not None:
        return f" (wheel {spec.wheel.sha256[:8]})"
    return f" ({spec.index})" if spec.index is not None else ""
