"""Autograd (https://github.com/HIPS/autograd) as a framework of dlperf."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.adapters.base import EnvironmentSpec, RankCommand, rank_environment
from dlperf.model import Model

if TYPE_CHECKING:
    from dlperf.adapters.base import Launch
    from dlperf.plan.case import Case, DeviceKind
    from dlperf.plan.machine import Gpu

PROGRAM = Path(__file__).with_name("train.py")


class AutogradOptions(Model):
    """Autograd has no options: a sweep that sets one is told so."""


class AutogradAdapter:
    """Autograd on one CPU device."""

    name = "autograd"
    title = "Autograd"
    source = None
    inherited_variables = ()
    alignable = False
    versions = ("1.8.0",)
    options = AutogradOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """What must be installed, to the last digit: another set of packages is another environment."""
        del parallel, gpu  # it trains on one CPU device alone
        if version not in self.versions or device != "cpu":
            raise ValueError(f"autograd runs on cpu, in version {', '.join(self.versions)}")
        return EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=("3.12", "3.11", "3.13"),
            requirements=(f"autograd=={version}", "numpy==2.2.6"),
            import_check="import autograd.numpy, importlib.metadata as m; print(m.version('autograd'))",
            notes="20 MB",
        )

    def unsupported(self, case: Case) -> str | None:
        """What is known before trying; the report prints it where a number would stand."""
        if case.topology.world_size > 1:
            return "Autograd has no communication between processes"
        if case.parallelism != "data" or case.workload.batch_norm != "batch":
            return "this program trains all classes, and BatchNorm by the batch's statistics"
        if case.precision != "fp32":
            return f"this program trains in fp32, not {case.precision}"
        if case.workload.head == "E" and case.workload.dropout > 0:
            return "this program has no dropout, which head E needs"
        if case.workload.optimizer.decay != "coupled" or case.workload.optimizer.no_decay:
            return "this program decays every parameter, coupled"
        return None

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """One process per rank, as an argument list; no shell."""
        argv = (str(launch.python), str(PROGRAM), str(launch.case_file))
        return tuple(
            RankCommand(argv=argv, env=rank_environment(launch, placement)) for placement in launch.placements
        )


ADAPTER = AutogradAdapter()
