"""InsightFace's own trainer for OneFlow, arcface_oneflow's train.py as an nn.Graph.

docs/engines/arcface_oneflow.md describes it.
"""

import math
from dataclasses import replace

from dlperf.adapters import original
from dlperf.adapters.base import (
    TF32,
    EnvironmentSpec,
    Launch,
    Program,
    ProgramProcess,
    ProgramSource,
    RankCommand,
    SourceEdit,
    program_command,
    require_known,
)
from dlperf.adapters.oneflow import ADAPTER as ONEFLOW
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind
from dlperf.plan.machine import Gpu

_FOLDER = "recognition/arcface_oneflow"
# The second is the last commit that changed the folder.
_COMMITS = ("7fadd420c2351d0ffa8cac403421c1a3ed733365", "2251bead1b5a238e0db3e919ce58dacb682a0548")
_VERSIONS = ("0.9.0",)

# What the program imports besides OneFlow; the newest for Python 3.8.
_PINS = (
    "easydict==1.13",
    "joblib==1.4.2",
    "opencv-python-headless==4.10.0.84",
    "scikit-learn==1.3.2",
    "scipy==1.10.1",
    "threadpoolctl==3.5.0",
)
_IMPORT_CHECK = "import cv2, easydict, scipy.interpolate, sklearn.model_selection\n"

_NETWORKS = {"iresnet18": "r18", "iresnet34": "r34", "iresnet50": "r50", "iresnet100": "r100"}
# What the program fixes.
_SCALE = 64.0
_MARGINS = {"arcface": (1.0, 0.5, 0.0), "cosface": (1.0, 0.0, 0.4)}
_SYNTHETIC_ITERATIONS = 10_000  # of an epoch


class ArcFaceOneFlowOptions(Model):
    """What a sweep may set under `options: {arcface_oneflow: ...}`."""

    tf32: bool = TF32


class ArcFaceOneFlowAdapter:
    """The adapter for arcface_oneflow."""

    name = "arcface_oneflow"
    title = "arcface_oneflow"
    source = ProgramSource(
        engine=ONEFLOW.name,
        url="https://github.com/deepinsight/insightface",
        folders=(_FOLDER,),
        commits=_COMMITS,
    )
    inherited_variables = ONEFLOW.inherited_variables
    alignable = False
    versions = _VERSIONS
    options = ArcFaceOneFlowOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """OneFlow as the adapter `oneflow` has it, and what the program imports; ValueError as there."""
        require_known(self.name, version, _VERSIONS)
        spec = ONEFLOW.environment(version, device, parallel=parallel, gpu=gpu)
        return replace(
            spec,
            framework=self.name,
            requirements=(*spec.requirements, *_PINS),
            import_check=_IMPORT_CHECK + spec.import_check,
        )

    def unsupported(self, case: Case) -> str | None:
        """The reason why this case cannot run; None if it can."""
        return (
            original.without_place(case)
            or original.without_data(case, "ofrecord")
            or _without_network(case)
            or original.without_scale(case, _SCALE)
            or _without_loss(case)
            or original.without_optimizer(case)
            or ONEFLOW.unsupported(case)
            or _without_parallelism(case)
            or original.without_lines(case, epoch=_epoch(case))
        )

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """The one command that runs the program: a process per device, as OneFlow's launcher starts them."""
        case = launch.case
        per_line = original.iterations_per_line(case, epoch=_epoch(case)) or 1
        argv = (str(launch.python), "train.py", "configs/dlperf.py", "--graph")
        program = Program(
            processes=tuple(
                ProgramProcess(argv=argv, env=_own_variables(command.env), folder=_FOLDER)
                for command in ONEFLOW.rank_commands(launch)
            ),
            dialect="arcface_torch",
            iterations_per_line=per_line,
            distribution="oneflow",
            data_form="ofrecord",
            edits=_edits(case, per_line),
            files={f"{_FOLDER}/configs/dlperf.py": _config_module(case)},
        )
        return (program_command(launch, program),)


def _own_variables(env: dict[str, str]) -> dict[str, str]:
    """Without what the program does not read: it takes the kernels that OneFlow's OpenBLAS detects."""
    return {name: value for name, value in env.items() if name != "DLPERF_ONEFLOW_OPENBLAS_CORE"}


def _epoch(case: Case) -> int:
    """Iterations of an epoch: of a data set as many as the configuration says."""
    return _SYNTHETIC_ITERATIONS if case.data is None else original.NEVER


def _without_network(case: Case) -> str | None:
    if case.workload.network not in _NETWORKS:
        return f"the program has IResNets alone, no {case.workload.network}"
    return None


def _without_loss(case: Case) -> str | None:
    if _loss_name(case) is None:
        return "the program has ArcFace with m2: 0.5 and CosFace with m3: 0.4 alone"
    return None


def _without_parallelism(case: Case) -> str | None:
    if case.device == "cpu" and case.topology.world_size > 1:
        return "OneFlow aborts on cpu where a graph of several processes reads data, as the program's does"
    if case.device == "cpu" and case.parallelism == "partial_fc":
        return "the program samples classes with an operator of OneFlow's that has no kernel for the CPU"
    return None if case.parallelism == "data" else original.without_equal_shares(case)


def _loss_name(case: Case) -> str | None:
    loss = case.workload.loss
    margins = (loss.m1, loss.m2, loss.m3)
    return next((name for name, own in _MARGINS.items() if all(map(math.isclose, own, margins))), None)


def _config(case: Case) -> dict[str, object]:
    """What a file of configs/ sets; the rest is as in the program's base.py."""
    work = case.workload
    return {
        "network": _NETWORKS[work.network],
        "embedding_size": work.embedding_size,
        "loss": _loss_name(case),
        "model_parallel": case.parallelism != "data",
        "partial_fc": case.parallelism == "partial_fc",
        "sample_rate": 1.0 if case.sample_ratio is None else case.sample_ratio,
        "num_classes": case.num_classes,
        "fp16": case.precision == "fp16",
        "batch_size": case.batch_size_per_device,
        "lr": work.schedule.learning_rate,
        "momentum": work.optimizer.momentum,
        "weight_decay": work.optimizer.weight_decay,
        "synthetic": case.data is None,
        "ofrecord_path": "" if case.data is None else case.data.path,
        "ofrecord_part_num": 0,
        "num_image": original.NEVER,  # of an epoch, whose end no run reaches
        "num_epoch": 1,
        "warmup_epoch": -1,
        "decay_epoch": [1],
        "val_targets": [],
        "output": "output",
    }


def _config_module(case: Case) -> str:
    text = original.config_module(_config(case))
    find_parts = original.find_parts("config.ofrecord_path", "config.ofrecord_part_num")
    return text if case.data is None else text + find_parts


# OneFlow 0.9 renamed these.
_RENAMED = (
    ("l2_normalize(input=x, dim=1, epsilon=1e-10)", "normalize(x, dim=1, eps=1e-10)"),
    (
        "l2_normalize(\n            input=weight, dim=1, epsilon=1e-10)",
        "normalize(\n            weight, dim=1, eps=1e-10)",
    ),
    ("if x.is_consistent:\n            return", "if x.is_global:\n            return"),
    ("partial_fc=cfg.partial_fc).to_consistent(", "partial_fc=cfg.partial_fc).to_global("),
    ("cfg.num_classes, cfg).to_consistent(", "cfg.num_classes, cfg).to_global("),
    ("backbone.to_consistent(", "backbone.to_global("),
    (
        "if x.is_consistent:\n            x = x.to_consistent(",
        "if x.is_global:\n            x = x.to_global(",
    ),
    ("loss = loss.to_consistent(", "loss = loss.to_global("),
)
# What nn.Graph reaches of the program, which knows CUDA alone.
_ON_CUDA = (
    ("train.py", 'all_device_placement("cuda")'),
    ("function.py", 'return data_loader.to("cuda")'),
    ("function.py", 'num_features=cfg.embedding_size).to("cuda")'),
    ("function.py", 'cfg, self.backbone, self.placement, world_size).to("cuda")'),
    ("function.py", '1, 0., 0.4).to("cuda")'),
    ("function.py", '1, 0.5, 0.).to("cuda")'),
    ("graph.py", 'image = image.to("cuda")'),
    ("graph.py", 'label = label.to("cuda")'),
)


def _edits(case: Case, per_line: int) -> tuple[SourceEdit, ...]:
    """What the version of OneFlow, the CPU and the case need, and the program has no configuration for."""
    edits = [("function.py", old, new) for old, new in _RENAMED]
    indent, rest = " " * 12, ", rank, cfg.total_step"
    edits.append(("function.py", f"{indent}50{rest}", f"{indent}{per_line}{rest}"))
    if case.data is not None:
        edits.append(("utils/ofrecord_data_utils.py", "os.path.join(ofrecord_root, mode)", "ofrecord_root"))
    edits += original.dropout_edits(case, "function.py")
    if case.device == "cpu":
        edits += [(file, old, old.replace('"cuda"', '"cpu"')) for file, old in _ON_CUDA]
    return original.source_edits(_FOLDER, edits)


ADAPTER = ArcFaceOneFlowAdapter()
