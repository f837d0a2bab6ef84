"""`dlperf env`: the isolated Python environments in which the frameworks run."""

import re
import shutil
from pathlib import Path
from typing import cast

import click

from dlperf.adapters.base import EnvironmentSpec
from dlperf.adapters.registry import load_adapters
from dlperf.cli import completing
from dlperf.cli.options import DEVICE_CHOICE, JSON, PATH
from dlperf.cli.terminal import echo, print_json, say, table
from dlperf.environments.catalogue import Entry, entries, entries_named, problems
from dlperf.environments.catalogue import remove as remove_entry
from dlperf.environments.environment import environment_key, environments_root, read_environment
from dlperf.environments.make import make
from dlperf.errors import EnvironmentUnavailable, UserError
from dlperf.plan.case import DeviceKind
from dlperf.plan.compatibility import refusal
from dlperf.plan.documents import unknown
from dlperf.plan.machine import Gpu, Machine, detect_machine

_BYTES_PER_GIB = 1024**3


def _capability(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[0-9]+\.[0-9]", value):
        raise click.BadParameter(f"{value!r} is not a compute capability, such as 9.0")
    return value


def _driver(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)*", value):
        raise click.BadParameter(f"{value!r} is not the version of a driver, such as 580.65.06")
    return value


_DEVICE = click.option(
    "--device",
    type=DEVICE_CHOICE,
    default="auto",
    help="Build of the framework; auto: cuda if there is an NVIDIA GPU, else cpu.",
)
_CAPABILITY = click.option(
    "--capability",
    metavar="X.Y",
    callback=_capability,
    help="Build for GPUs of this compute capability, such as 9.0, not for those of this machine.",
)
_DRIVER = click.option(
    "--driver",
    metavar="VERSION",
    callback=_driver,
    help="Build for this NVIDIA driver, such as 580.65.06, not for this machine's.",
)
_PARALLEL = click.option(
    "--parallel", is_flag=True, help="Include what cases on several devices need (MXNet: Horovod)."
)

_EPILOG = """\b
Examples:
  dlperf env create mxnet==1.9.1
  dlperf env create pytorch --capability 9.0 --driver 580.65.06
  dlperf env list
  $(dlperf env path pytorch) -c 'import torch; print(torch.__version__)'
  dlperf env doctor
  dlperf env remove oneflow"""


@click.group(epilog=_EPILOG)
def command() -> None:
    """List, create, check and remove framework environments.

    `dlperf run` creates the environments that it needs on first use. They are in your cache folder, or under
    $DLPERF_CACHE.
    """


@command.command(name="list")
@JSON
def list_environments(*, as_json: bool) -> None:
    """List the environments on this machine."""
    found = entries()
    if as_json:
        print_json([_content(entry) for entry in found])
    elif not found:
        say("no environments yet; create one: dlperf env create NAME")
    else:
        headings = ("framework", "Python", "packages", "GiB", "created", "key")
        echo(table(headings, map(_cells, found), right=("packages", "GiB")))


@command.command()
@click.argument("name", metavar="NAME[==VERSION]", shell_complete=completing.frameworks)
@_DEVICE
@_CAPABILITY
@_DRIVER
@_PARALLEL
@click.option("--python", type=PATH, help="Python interpreter to build the environment with.")
def create(
    *,
    name: str,
    device: str,
    capability: str | None,
    driver: str | None,
    parallel: bool,
    python: Path | None,
) -> None:
    """Create an environment now.

    Prints the path of its interpreter. The default version is the first that the framework's adapter names.
    An existing environment stays as it is.
    """
    if python is not None and shutil.which(python.expanduser()) is None:
        raise UserError(f"--python: {python} is not an executable")
    spec = _spec(name, device, capability=capability, driver=driver, parallel=parallel)
    gpus = _gpus(capability, driver)
    unfit = refusal(spec, gpus, adapter=load_adapters()[spec.framework])
    if unfit is not None and device == "auto":
        raise UserError(f"{unfit}; --device cuda creates it all the same")
    if unfit is not None:
        say(f"warning: {unfit}")
    # Looked for first: making one waits for the sweeps that use it.
    environment = read_environment(environments_root() / environment_key(spec)) or make(
        spec, base=python, report=say
    )
    echo(str(environment.python))


@command.command()
@click.argument("name", metavar="NAME[==VERSION]", shell_complete=completing.frameworks)
@_DEVICE
@_CAPABILITY
@_DRIVER
@_PARALLEL
def path(*, name: str, device: str, capability: str | None, driver: str | None, parallel: bool) -> None:
    """Print the path of an interpreter.

    Exit code 5: there is no such environment yet.
    """
    spec = _spec(name, device, capability=capability, driver=driver, parallel=parallel)
    environment = read_environment(environments_root() / environment_key(spec))
    if environment is None:
        wanted = f"{spec.framework}=={spec.version}"
        given = {
            "device": None if device == "auto" else device,
            "capability": capability,
            "driver": driver,
        }
        options = [f" --{option} {value}" for option, value in given.items() if value is not None]
        options += [" --parallel"] if parallel else []
        raise EnvironmentUnavailable(
            f"{wanted} has no environment here yet; create it: dlperf env create {wanted}{''.join(options)}"
        )
    echo(str(environment.python))


@command.command()
@click.argument("names", metavar="NAME[==VERSION]...", nargs=-1, required=True)
def remove(*, names: tuple[str, ...]) -> None:
    """Remove environments from the disk.

    NAME is a framework, a framework and a version, or the key of one environment. An environment that is in
    use is not removed.
    """
    for entry in _named(names):
        remove_entry(entry)
        say(f"removed {entry.key}")


@command.command()
@click.argument("names", metavar="[NAME[==VERSION]]...", nargs=-1)
@JSON
@click.pass_context
def doctor(ctx: click.Context, *, names: tuple[str, ...], as_json: bool) -> None:
    """Check what is installed.

    Compares the packages and their files with what was recorded, and imports the framework again. Exit code
    5: an environment has changed or does not work.
    """
    found = {entry.key: problems(entry) for entry in (_named(names) if names else entries())}
    if as_json:
        print_json(found)
    else:
        for key, wrong in found.items():
            echo(f"{key}: {'ok' if not wrong else ''}".rstrip())
            for line in wrong:
                echo(f"  {line}")
            if wrong:
                echo(f"  to recreate it on next use: dlperf env remove {key}")
    ctx.exit(EnvironmentUnavailable.exit_code if any(found.values()) else 0)


def _spec(
    name: str, device: str, *, capability: str | None, driver: str | None, parallel: bool
) -> EnvironmentSpec:
    """What the adapter asks for; `name` is `mxnet` or `mxnet==1.9.1`. A GPU that is described means cuda."""
    framework, separator, version = name.partition("==")
    adapters = load_adapters()
    if framework not in adapters:
        raise UserError(unknown("framework", framework, adapters))
    adapter = adapters[framework]
    if separator and not version:
        raise UserError(f"{name!r} names no version; write for example {framework}=={adapter.versions[0]}")
    gpus = _gpus(capability, driver)
    built_for: DeviceKind = "cuda" if gpus else "cpu"
    if device != "auto":
        built_for = cast("DeviceKind", device)
    gpu = Machine(cores=1, gpus=gpus).gpu
    try:
        return adapter.environment(version or adapter.versions[0], built_for, parallel=parallel, gpu=gpu)
    except ValueError as error:
        raise UserError(str(error)) from error


def _gpus(capability: str | None, driver: str | None) -> tuple[Gpu, ...]:
    """The GPU that is described, or those of this machine."""
    if capability or driver:
        return (Gpu(name="GPU", capability=capability, driver=driver),)
    return detect_machine().gpus


def _named(names: tuple[str, ...]) -> list[Entry]:
    found: dict[str, Entry] = {}
    for name in names:
        matching = entries_named(name)
        if not matching:
            here = ", ".join(entry.key for entry in entries()) or "none"
            raise UserError(f"no environment is called {name!r}; there are: {here}")
        found |= {entry.key: entry for entry in matching}
    return list(found.values())


def _content(entry: Entry) -> dict[str, object]:
    manifest = entry.environment.manifest if entry.environment else None
    return {
        "key": entry.key,
        "root": str(entry.root),
        "size_bytes": entry.size_bytes,
        "manifest": manifest.model_dump(mode="json") if manifest else None,
    }


def _cells(entry: Entry) -> tuple[str, ...]:
    size = f"{entry.size_bytes / _BYTES_PER_GIB:.2f}"
    if entry.environment is None:
        return "broken", "", "", size, "", entry.key
    manifest = entry.environment.manifest
    return (
        f"{manifest.spec.framework} {manifest.version}{_origin(manifest.spec)}",
        manifest.python_version,
        str(len(manifest.packages)),
        size,
        manifest.created_at,
        entry.key,
    )


def _origin(spec: EnvironmentSpec) -> str:
    """What tells an environment from that of the same version from its usual place."""
    if spec.wheel is not None:
        return f" (wheel {spec.wheel.sha256[:8]})"
    place = spec.index or spec.find_links
    return f" ({place})" if place else ""
