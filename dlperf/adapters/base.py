"""The one interface between dlperf and a framework. The shipped adapters use nothing else.

An adapter is pure: it says which environment a version needs, whether the engine can run a case at all, and
which processes a case consists of. It starts nothing. Register one under the entry-point group
`dlperf.adapters`; docs/adding-a-framework.md walks through it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dlperf.plan.case import Case, DeviceKind

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEdit:
    """A correction of a source: in `file`, `after` in place of `before`, which stands there once."""

    file: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBuild:
    """A package that has no wheel: compiled once beside the requirements, its wheel kept and used again.

    Attributes:
        requirement: exact, such as `horovod==0.28.1`.
        tools: exact requirements that are there while it is built, and not in the environment.
        edits: corrections of the source.
        settings: environment variables of the build; `{site_packages}` stands for the folder of that name.
            No other variable of the user's that begins as the package's name does reaches the build.
        programs: what must be on PATH -> how a person gets it, such as `apt install g++`.
    """

    requirement: str
    tools: tuple[str, ...]
    edits: tuple[SourceEdit, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelFile:
    """A wheel of the user's own: where it lies on this machine, and the hash of what it held when planned."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """Everything that decides what is installed; its content hash names the environment.

    Attributes:
        framework: the adapter's name.
        version: the framework's version.
        pythons: CPython versions that can run it, best first, such as ("3.10", "3.9").
        requirements: exact pip requirements, in install order.
        torch_backend: value of uv's --torch-backend where the requirements hold torch, else None.
        build_environment: environment variables while installing, where pip may compile the requirements.
        builds: what is compiled against the requirements, and installed with them.
        wheel: is installed in place of the requirement of its distribution; dlperf sets it, no adapter does.
        index: URL of the package index that the first requirement comes from; likewise.
        import_check: Python source that proves the installation; it must print the framework's version.
        parallel: whether it was asked for with `parallel`; tells a person how to make it.
        notes: what a person should know (size of the download, why a pin).
    """

    framework: str
    version: str
    pythons: tuple[str, ...]
    requirements: tuple[str, ...]
    import_check: str
    torch_backend: str | None = None
    build_environment: dict[str, str] = field(default_factory=dict)
    builds: tuple[SourceBuild, ...] = ()
    wheel: WheelFile | None = None
    index: str | None = None
    parallel: bool = False
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlacement:
    """Where one rank of a case runs. Ports and addresses are chosen by dlperf before the launch."""

    rank: int
    local_rank: int
    node_rank: int
    cpus: tuple[int, ...]  # the cores the rank is bound to; () leaves it unbound
    master_address: str  # of node 0, as the other nodes reach it
    master_port: int
    interface: str | None = None  # network interface between the nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCommand:
    """A process: an argument list (never a shell line) and what it adds to the environment.

    It drives `devices` devices, nearly always one: the next of `Launch.placements`, all on one node.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    devices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What an adapter needs to know to start a case.

    `case_file` is where `case.json` lies on the node, `code` the folder that holds `frameworks/` (it goes on
    PYTHONPATH), `python` the interpreter of the framework's environment.
    """

    case: Case
    case_file: Path
    code: Path
    python: Path
    placements: tuple[RankPlacement, ...]


class Adapter(Protocol):
    """What every framework provides."""

    @property
    def name(self) -> str:
        """The name in sweep files, such as `mxnet`."""

    @property
    def title(self) -> str:
        """The name as its makers write it, such as `MXNet`."""

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that `environment` knows; the first is taken where none is named."""

    @property
    def options(self) -> type[BaseModel]:
        """The framework's own options, validated; forbid extra keys."""

    def environment(self, version: str, device: DeviceKind, *, parallel: bool = False) -> EnvironmentSpec:
        """What must be installed; ValueError with the known versions where `version` cannot run.

        `parallel`: for cases of several devices, which may need a library more than one device does.
        """

    def unsupported(self, case: Case) -> str | None:
        """The engine's reason why it cannot run this case at all, known before trying; None if it can."""

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """The processes of the case, which together drive all of `launch.placements`, in their order."""
