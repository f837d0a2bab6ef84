"""Adapters that need no framework: a third party's could look like this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from dlperf.adapters.base import EnvironmentSpec, Launch, ProgramSource, RankCommand
from dlperf.model import Model
from dlperf.plan.machine import Gpu, Machine

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dlperf.plan.case import Case, DeviceKind


class PaperOptions(Model):
    fast: bool = False
    level: int | None = None


@dataclass(frozen=True)
class PaperAdapter:
    """Knows two versions, refuses bf16, and gives every rank the same command."""

    name: str
    versions: tuple[str, ...]
    cuda_only: tuple[str, ...] = ()
    source: ProgramSource | None = None
    inherited_variables = ()
    alignable = True

    @property
    def title(self) -> str:
        return self.name.title()

    @property
    def options(self) -> type[BaseModel]:
        return PaperOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        del parallel, gpu
        if version not in self.versions:
            raise ValueError(f"{self.name} {version} is not known; known: {', '.join(self.versions)}")
        if version in self.cuda_only and device == "cpu":
            raise ValueError(f"{self.name} {version} has no CPU build")
        return EnvironmentSpec(
            framework=self.name, version=version, pythons=("3.11",), requirements=(), import_check=""
        )

    def unsupported(self, case: Case) -> str | None:
        return f"{self.name} has no bf16" if case.precision == "bf16" else None

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        return tuple(
            RankCommand(argv=(str(launch.python), "-m", self.name), env={"RANK": str(place.rank)})
            for place in launch.placements
        )


@pytest.fixture(scope="session")
def adapters() -> dict[str, PaperAdapter]:
    return {
        "jax": PaperAdapter("jax", ("0.10.2",)),
        "mxnet": PaperAdapter("mxnet", ("1.9.1", "1.8.0")),
        "oneflow": PaperAdapter("oneflow", ("0.9.0",)),
        "pytorch": PaperAdapter("pytorch", ("2.13.0", "2.12.0"), cuda_only=("2.12.0",)),
    }


@pytest.fixture(scope="session")
def cluster() -> Machine:
    """A machine with room for every topology of one node."""
    return Machine(cores=64, gpus=("Tesla V100-SXM2-16GB",) * 8)


@pytest.fixture(scope="session")
def laptop() -> Machine:
    return Machine(cores=2)
