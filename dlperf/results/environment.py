"""`environment.json` of a run folder: the machines and the software that a run used.

Written by the runner before the ranks start, read by the report. Whether two cases may stand in one ratio is
decided by `hardware_key`.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field, ValidationError

from dlperf.model import Model, Retired

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT_SCHEMA_VERSION: Final = 1
UNKNOWN_HARDWARE = "unknown hardware"


class Node(Model):
    """One node as it was found; None where it could not be told."""

    host: str
    cpu: str | None = None  # model name
    cores: int | None = None  # that this process may use
    memory_bytes: int | None = None
    accelerators: tuple[str, ...] = ()  # model names, one a device
    driver: str | None = None  # of the accelerators
    system: str | None = None  # such as `Debian GNU/Linux 12 (bookworm)`
    kernel: str | None = None
    governor: str | None = None  # of the CPU's frequency, such as `performance`
    turbo: bool | None = None  # whether the CPU may exceed its nominal frequency
    link: str | None = None  # between the nodes, as the cluster file says; nobody has measured it
    load: float | None = None  # processes that wanted to run in the last minute, before the run

    @cached_property
    def hardware(self) -> str:
        """What decides speed, on one line."""
        cores = f"{self.cores} cores" if self.cores is not None else ""
        memory = f"{self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes is not None else ""
        kinds = dict.fromkeys(self.accelerators)
        devices = ", ".join(f"{self.accelerators.count(kind)} x {kind}" for kind in kinds)
        link = f"link {self.link}" if self.link is not None else ""
        parts = [part for part in (devices, self.cpu or "", cores, memory, link) if part]
        return ", ".join(parts) or UNKNOWN_HARDWARE


class RunEnvironment(Model):
    """Everything around a run that is not its case."""

    schema_version: Literal[1] = ENVIRONMENT_SCHEMA_VERSION
    dlperf_version: str
    git_commit: str | None = (
        None  # of dlperf's checkout, `-dirty` appended where files differ; None outside one
    )
    nodes: tuple[Node, ...] = ()  # by node rank
    python: str | None = None  # version in the framework's environment
    packages: dict[str, str] = Field(default_factory=dict)  # name -> version in the framework's environment
    variables: dict[str, str] = Field(default_factory=dict)  # set for the ranks, secrets redacted
    cpus: dict[str, tuple[int, ...]] = Field(default_factory=dict)  # rank -> the cores that it is bound to
    simulated: Retired = None

    @cached_property
    def hardware_key(self) -> str:
        """Two runs with the same key ran on like machines; host names do not count."""
        return "; ".join(dict.fromkeys(node.hardware for node in self.nodes)) or UNKNOWN_HARDWARE


def read_environment(folder: Path) -> RunEnvironment | None:
    """The environment of a run folder; None where there is none that can be read."""
    try:
        with open(f"{folder}/environment.json", "rb") as stream:  # noqa: PTH123  a report reads thousands
            return _parsed(stream.read())
    except (OSError, ValidationError):
        return None


@lru_cache(maxsize=64)
def _parsed(content: bytes) -> RunEnvironment:
    """The runs of a sweep were mostly made in one and the same environment."""
    return RunEnvironment.model_validate_json(content)
