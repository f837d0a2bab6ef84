"""The adapter of the numpy framework."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from dlperf.adapters.base import EnvironmentSpec, RankCommand, rank_environment
from dlperf.model import Model

if TYPE_CHECKING:
    from dlperf.adapters.base import Launch
    from dlperf.plan.case import Case, DeviceKind
    from dlperf.plan.machine import Gpu


class NumpyOptions(Model):
    """How a training goes wrong: `fault` happens in rank `fault_rank` before iteration `fault_step`.

    With `fault_while` it happens only as long as that file exists; `wait` then ends with it.
    """

    fault: Literal["none", "exit", "kill", "hang", "wait", "loose", "memory", "flood"] = "none"
    fault_rank: Annotated[int, Field(ge=0)] = 0
    fault_step: Annotated[int, Field(ge=0)] = 0
    fault_while: str = ""
    print_variables: str = ""  # names; their lengths are printed, and the values of those that are no token
    leak_bytes: Annotated[int, Field(ge=0)] = 0  # every iteration keeps so much more memory
    leak_rank: Annotated[int, Field(ge=-1)] = -1  # only this rank does; -1: every one
    leak_while: str = ""  # only as long as this file exists
    work: Annotated[int, Field(ge=0)] = 0  # every iteration computes so much more
    step_seconds: Annotated[float, Field(ge=0)] = 0.0  # every iteration takes so much longer
    step_rank: Annotated[int, Field(ge=-1)] = -1  # only that of this rank does; -1: that of every one


class NumpyAdapter:
    """Ranks talk to each other where a case has several nodes."""

    name = "numpy"
    title = "NumPy"
    source = None
    inherited_variables = ("EXAMPLE_*",)
    alignable = False
    # Other "versions" of the same numpy: one that is as fast, and two whose loops became 10 and 5 % slower.
    versions = tuple(np.__version__ + ending for ending in ("", "+same", "+slower", "+slower5"))
    options = NumpyOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        del parallel, gpu
        if version not in self.versions or device != "cpu":
            raise ValueError(f"numpy here is {self.versions[0]} on cpu, not {version} on {device}")
        return EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=("3.11",),
            requirements=(f"numpy=={np.__version__}",),
            import_check=f"import numpy; print(numpy.__version__ + {version.removeprefix(np.__version__)!r})",
        )

    def unsupported(self, case: Case) -> str | None:
        return None if case.parallelism == "data" else f"numpy has no {case.parallelism} parallelism"

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        program = Path(__file__).with_name("train.py")
        argv = (str(launch.python), str(program), str(launch.case_file))
        return tuple(
            RankCommand(
                argv=argv,
                env=rank_environment(launch, place) | {"EXAMPLE_API_KEY": "not for other eyes"},
                defaults={"GLOO_EXAMPLE": "default", "GLOO_EXAMPLE_2": "default"},
                paths={"LD_LIBRARY_PATH": "/example/lib"},
            )
            for place in launch.placements
        )


ADAPTER = NumpyAdapter()
