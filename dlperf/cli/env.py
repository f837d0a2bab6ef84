"""`dlperf env`: the isolated Python environments in which the frameworks run."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click

from dlperf.adapters.base import EnvironmentSpec
from dlperf.adapters.registry import load_adapters
from dlperf.cli import completing
from dlperf.cli.options import DEVICE_CHOICE, JSON, PATH, gathered
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


def _matching(pattern: str, what: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def check(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise click.BadParameter(f"{value!r} is not {what}")
        return value

    return check


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """The environment that a command line describes; `name` is `mxnet` or `mxnet==1.9.1`."""

    name: str
    device: str
    capability: str | None
    driver: str | None
    parallel: bool

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPU that is described, or those of this machine."""
        if self.capability or self.driver:
            return (Gpu(name="GPU", capability=self.capability, driver=self.driver),)
        return detect_machine().gpus

    def spec(self) -> EnvironmentSpec:
        """What the adapter asks for. A GPU that is described means cuda."""
        framework, separator, version = self.name.partition("==")
        adapters = load_adapters()
        if framework not in adapters:
            raise UserError(unknown("framework", framework, adapters))
        adapter = adapters[framework]
        default = adapter.versions[0]
        if separator and not version:
            raise UserError(f"{self.name!r} names no version; write for example {framework}=={default}")
        machine = Machine(cores=1, gpus=self.gpus)
        device = machine.device if self.device == "auto" else cast("DeviceKind", self.device)
        try:
            return adapter.environment(version or default, device, parallel=self.parallel, gpu=machine.gpu)
        except ValueError as error:
            raise UserError(str(error)) from error


_WANTED = gathered(
    "wanted",
    _Wanted,
    click.argument("name", metavar="NAME[==VERSION]", shell_complete=completing.frameworks),
    click.option(
        "--device",
        type=DEVICE_CHOICE,
        default="auto",
        help="Build of the framework; auto: cuda if there is an NVIDIA GPU, else cpu.",
    ),
    click.option(
        "--capability",
        metavar="X.Y",
        callback=_matching(r"[0-9]+\.[0-9]", "a compute capability, such as 9.0"),
        help="Build for GPUs of this compute capability, such as 9.0, not for those of this machine.",
    ),
    click.option(
        "--driver",
        metavar="VERSION",
        callback=_matching(r"[0-9]+(\.[0-9]+)*", "the version of a driver, such as 580.65.06"),
        help="Build for this NVIDIA driver, such as 580.65.06, not for this machine's.",
    ),
    click.option(
        "--parallel", is_flag=True, help="Include what cases on several devices need (MXNet: Horovod)."
    ),
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
@_WANTED
@click.option("--python", type=PATH, help="Python interpreter to build the environment with.")
def create(*, wanted: _Wanted, python: Path | None) -> None:
    """Create an environment now.

    Prints the path of its interpreter. The default version is the first that the framework's adapter names.
    An existing environment stays as it is.
    """
    if python is not None and shutil.which(python.expanduser()) is None:
        raise UserError(f"--python: {python} is not an executable")
    spec = wanted.spec()
    unfit = refusal(spec, wanted.gpus, adapter=load_adapters()[spec.framework])
    if unfit is not None and wanted.device == "auto":
        raise UserError(f"{unfit}; --device cuda creates it all the same")
    if unfit is not None:
        say(f"warning: {unfit}")
    # Looked for first: making one waits for the sweeps that use it.
    environment = read_environment(environments_root() / environment_key(spec)) or make(
        spec, base=python, report=say
    )
    echo(str(environment.python))


@command.command()
@_WANTED
def path(*, wanted: _Wanted) -> None:
    """Print the path of an interpreter.

    Exit code 5: there is no such environment yet.
    """
    spec = wanted.spec()
    environment = read_environment(environments_root() / environment_key(spec))
    if environment is None:
        name = f"{spec.framework}=={spec.version}"
        options = {
            f" --device {wanted.device}": wanted.device != "auto",
            f" --capability {wanted.capability}": wanted.capability is not None,
            f" --driver {wanted.driver}": wanted.driver is not None,
            " --parallel": wanted.parallel,
        }
        given = "".join(option for option, is_given in options.items() if is_given)
        raise EnvironmentUnavailable(
            f"{name} has no environment here yet; create it: dlperf env create {name}{given}"
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
