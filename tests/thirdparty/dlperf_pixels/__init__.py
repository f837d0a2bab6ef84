"""An adapter that runs an original program: tests/thirdparty/pixel_trainer, which knows nothing of dlperf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from dlperf.adapters.base import (
    EnvironmentSpec,
    Program,
    ProgramProcess,
    ProgramSource,
    RankCommand,
    SourceEdit,
    program_command,
)
from dlperf.model import Model

if TYPE_CHECKING:
    from dlperf.adapters.base import Launch
    from dlperf.plan.case import Case, DeviceKind
    from dlperf.plan.machine import Gpu

FOLDER = "recognition"


class PixelOptions(Model):
    launcher: bool = False  # two devices: the program's own launcher, not a process each
    batches: Annotated[int, Field(ge=0)] = 0  # that it trains before it ends by itself; 0: without end
    broken: bool = False  # it gets a configuration that it refuses
    frequent: Annotated[int, Field(gt=0)] = 10
    pause: Annotated[float, Field(ge=0)] = 0.0  # seconds after each line that its rates leave out


class PixelAdapter:
    name = "pixels"
    title = "Pixel trainer"
    inherited_variables = ()
    source = ProgramSource(
        engine="numpy",
        url="https://example.com/pixel_trainer.git",
        folders=(FOLDER,),
        commits=("0123456789abcdef",),
    )
    alignable = False
    versions = (np.__version__,)
    options = PixelOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        del parallel, gpu
        if version not in self.versions or device != "cpu":
            raise ValueError(f"the pixel trainer here runs numpy {self.versions[0]} on cpu")
        return EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=("3.11",),
            requirements=(f"numpy=={np.__version__}",),
            import_check="import numpy; print(numpy.__version__)",
        )

    def unsupported(self, case: Case) -> str | None:
        return None if case.topology.nodes == 1 else "the pixel trainer knows one node"

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        case, devices = launch.case, len(launch.placements)
        options = PixelOptions.model_validate(case.options)
        has_launcher = options.launcher and devices > 1
        config = {
            "pixels": 3 * 32 * 32,
            "classes": 0 if options.broken else case.num_classes,
            "batch_size": case.batch_size_per_device,
            "batches": options.batches,
            "pause": options.pause,
            "records": f"{case.data.path}/train.rec" if case.data is not None else "",
            "line": "job" if has_launcher else "process",
        }
        script = "launch.py" if has_launcher else "train.py"
        processes = tuple(
            ProgramProcess(
                argv=(str(launch.python), script),
                env={"TRAINER_RANK": str(rank), "TRAINER_RANKS": str(devices)},
                folder=FOLDER,
            )
            for rank in range(1 if has_launcher else devices)
        )
        program = Program(
            processes=processes,
            dialect="arcface_torch" if has_launcher else "insightface_mxnet",
            iterations_per_line=options.frequent,
            distribution="numpy",
            data_form="recordio",
            edits=(
                SourceEdit(
                    file=f"{FOLDER}/train.py",
                    before="FREQUENT = 50\n",
                    after=f"FREQUENT = {options.frequent}\n",
                ),
            ),
            files={f"{FOLDER}/config.py": f"config = {config!r}\n"},
        )
        return (program_command(launch, program),)


ADAPTER = PixelAdapter()
