"""InsightFace's own trainer for PyTorch, train_v2.py of arcface_torch; see docs/engines/arcface_torch.md."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from dlperf.adapters import original
from dlperf.adapters.base import (
    TF32,
    EnvironmentSpec,
    Launch,
    Program,
    ProgramProcess,
    ProgramSource,
    RankCommand,
    RankPlacement,
    SourceEdit,
    program_command,
    rank_environment,
)
from dlperf.adapters.mxnet import ADAPTER as MXNET
from dlperf.adapters.pytorch import ADAPTER as PYTORCH
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind
from dlperf.plan.machine import Gpu

_FOLDER = "recognition/arcface_torch"
# The second is the last commit that changed the folder.
_COMMITS = ("7fadd420c2351d0ffa8cac403421c1a3ed733365", "0159b24d44cbc91abbd07b7a6fab0ba923a7fddf")

_TORCHVISION = {"2.13.0": "0.28.0"}
# The program reads RecordIO with MXNet, which needs an old numpy, and numpy an old scipy and scikit-learn.
_MXNET = "1.9.1"
_PINS = (
    "easydict==1.13",
    "tensorboard==2.21.0",
    "scikit-learn==1.5.2",
    "scipy==1.11.4",
    "pillow==11.3.0",
)
_IMPORT_CHECK = """\
import importlib.metadata
import easydict, mxnet, scipy.interpolate, sklearn.model_selection, torch.utils.tensorboard
importlib.metadata.version("torchvision")
"""

_NETWORKS = {
    "iresnet18": "r18",
    "iresnet34": "r34",
    "iresnet50": "r50",
    "iresnet100": "r100",
    "mobilefacenet": "mbf",
}
_SYNTHETIC_IMAGES = 1_000_000
# What the program fixes.
_SCALE = 64.0
_MOMENTUM = 0.9


class ArcFaceTorchOptions(Model):
    """What a sweep may set under `options: {arcface_torch: ...}`."""

    workers: Annotated[int, Field(ge=0)] = Field(
        default=2,
        description="Processes per device that read and decode images; 2 in the program's own files.",
    )
    tf32: bool = TF32


class ArcFaceTorchAdapter:
    """The adapter for arcface_torch."""

    name = "arcface_torch"
    title = "arcface_torch"
    source = ProgramSource(
        engine=PYTORCH.name,
        url="https://github.com/deepinsight/insightface",
        folders=(_FOLDER,),
        commits=_COMMITS,
    )
    inherited_variables = PYTORCH.inherited_variables
    alignable = False
    versions = tuple(version for version in PYTORCH.versions if version in _TORCHVISION)
    options = ArcFaceTorchOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """PyTorch as the adapter `pytorch` has it, MXNet for the CPU, and what the program imports besides.

        ValueError where `version` is not known.
        """
        spec = PYTORCH.environment(version, device, parallel=parallel, gpu=gpu)
        reader = MXNET.environment(_MXNET, "cpu")
        return replace(
            spec,
            framework=self.name,
            pythons=tuple(python for python in spec.pythons if python in reader.pythons),
            requirements=(
                spec.requirements[0],
                f"torchvision=={_TORCHVISION[version]}",
                *reader.requirements,
                *_PINS,
            ),
            import_check=_IMPORT_CHECK + spec.import_check,
            notes=f"{spec.notes}, and MXNet (about 50 MB), which the program reads RecordIO with",
        )

    def unsupported(self, case: Case) -> str | None:
        """The reason why this case cannot run; None if it can."""
        return (
            original.without_place(case)
            or original.without_data(case, "recordio")
            or _without_parallelism(case)
            or _without_precision(case)
            or original.without_scale(case, _SCALE)
            or _without_loss(case)
            or original.without_optimizer(case, momentum=_MOMENTUM)
            or PYTORCH.unsupported(case)
            or original.without_lines(case, epoch=_epoch(case))
        )

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """The one command that runs the program: a process per device, as torchrun would start them."""
        case = launch.case
        per_line = original.iterations_per_line(case, epoch=_epoch(case)) or 1
        program = Program(
            processes=tuple(_process(launch, placement) for placement in launch.placements),
            dialect="arcface_torch",
            iterations_per_line=per_line,
            distribution="torch",
            data_form="recordio",
            edits=_edits(case),
            files={f"{_FOLDER}/configs/dlperf.py": original.config_module(_config(case, per_line))},
        )
        return (program_command(launch, program),)


def _without_parallelism(case: Case) -> str | None:
    if case.parallelism == "data" and case.topology.world_size > 1:
        return "the program divides the classes over the devices; take parallelism: model"
    return None


def _without_precision(case: Case) -> str | None:
    if case.precision == "bf16":
        return "the program has mixed precision in fp16 alone"
    if case.device == "cpu" and case.precision == "fp16":
        return "the program's mixed precision is CUDA's, and on cpu it silently trains in fp32"
    if case.precision == "fp16" and case.gradient_dtype != "float16":
        return "the program adds gradients up in float16; write gradient_dtype: float16"
    return None


def _without_loss(case: Case) -> str | None:
    loss = case.workload.loss
    if loss.m1 != 1 or (loss.m2 > 0 and loss.m3 > 0):
        return "the program has ArcFace's margin m2 or CosFace's m3, and combines none"
    return None


def _epoch(case: Case) -> int:
    return original.iterations_per_epoch(case, synthetic=_SYNTHETIC_IMAGES)


def _process(launch: Launch, placement: RankPlacement) -> ProgramProcess:
    case = launch.case
    options = ArcFaceTorchOptions.model_validate(case.options)
    env = {
        **rank_environment(launch, placement),
        "RANK": str(placement.rank),
        "LOCAL_RANK": str(placement.local_rank),
        "WORLD_SIZE": str(case.topology.world_size),
        "LOCAL_WORLD_SIZE": str(case.topology.devices_per_node),
        "MASTER_ADDR": placement.master_address,
        "MASTER_PORT": str(placement.master_port),
    }
    if case.device == "cpu":
        env["GLOO_SOCKET_IFNAME"] = "lo"  # else the one that the host's name resolves to, which may be none
    else:
        env["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] = "1" if options.tf32 else "0"
    argv = (str(launch.python), "train_v2.py", "configs/dlperf.py")
    return ProgramProcess(argv=argv, env=env, folder=_FOLDER)


def _config(case: Case, per_line: int) -> dict[str, object]:
    """What a file of configs/ sets; the rest is as in the program's base.py."""
    work = case.workload
    return {
        "network": _NETWORKS[work.network],
        "embedding_size": work.embedding_size,
        "margin_list": (work.loss.m1, work.loss.m2, work.loss.m3),
        "sample_rate": 1.0 if case.sample_ratio is None else case.sample_ratio,
        "num_classes": case.num_classes,
        "fp16": case.precision == "fp16",
        "batch_size": case.batch_size_per_device,
        "lr": work.schedule.learning_rate,
        "weight_decay": work.optimizer.weight_decay,
        "seed": case.seed,
        "rec": "synthetic" if case.data is None else case.data.path,
        "num_workers": ArcFaceTorchOptions.model_validate(case.options).workers,
        "num_image": _SYNTHETIC_IMAGES if case.data is None else case.data.images,
        # So many that the learning rate, which falls to 0 in them, does not change in a run.
        "num_epoch": original.NEVER,
        "warmup_epoch": 0,
        "frequent": per_line,
        "verbose": original.NEVER,
        "val_targets": [],
        "output": "output",
    }


# Newer versions of PyTorch dropped an argument that the program passes on.
_SCHEDULER_EDIT = (
    "lr_scheduler.py", "last_epoch=last_epoch, verbose=verbose)", "last_epoch=last_epoch)",
)  # fmt: skip
# The program knows CUDA alone. Without it the default device, the CPU, is the right one everywhere.
_CPU_EDITS = (
    ("train_v2.py", 'init_process_group("nccl")', 'init_process_group("gloo")'),
    ("train_v2.py", 'backend="nccl"', 'backend="gloo"'),
    ("train_v2.py", "    torch.cuda.set_device(local_rank)\n", ""),
    ("train_v2.py", "num_features=cfg.embedding_size).cuda()", "num_features=cfg.embedding_size)"),
    ("train_v2.py", "device_ids=[local_rank], ", ""),
    (
        "train_v2.py",
        "module_partial_fc.train().cuda()\n        # TODO",
        "module_partial_fc.train()\n        # TODO",
    ),
    ("dataset.py", "        torch.cuda.set_device(self.local_rank)\n", ""),
    ("dataset.py", "torch.cuda.Stream(local_rank)", "None"),
    ("dataset.py", "device=self.local_rank, non_blocking", 'device="cpu", non_blocking'),
    ("dataset.py", "        torch.cuda.current_stream().wait_stream(self.stream)\n", ""),
    ("utils/utils_distributed_sampler.py", 'seed=None, device="cuda"):', 'seed=None, device="cpu"):'),
    ("partial_fc_v2.py", "self.embedding_size)).cuda()", "self.embedding_size))"),
    ("partial_fc_v2.py", "torch.zeros(batch_size).long().cuda()", "torch.zeros(batch_size).long()"),
)
_CPU_SAMPLING_EDITS = (
    ("partial_fc_v2.py", "sorted=True).cuda()", "sorted=True)"),
    ("partial_fc_v2.py", "size=[self.num_local]).cuda()", "size=[self.num_local])"),
    ("partial_fc_v2.py", "k=self.num_sample)[1].cuda()", "k=self.num_sample)[1]"),
    ("partial_fc_v2.py", "index.sort()[0].cuda()", "index.sort()[0]"),
)
# The torchvision of PyPI is for CUDA. Beside a PyTorch for the CPU its own operators do not load, and two of
# them must have names for it to be imported. The program uses its transforms alone, which are Python.
_WITHOUT_OPERATORS = """\
try:
    from torchvision import transforms
except RuntimeError:
    for name in ("nms", "qnms"):
        torch.library.define("torchvision::" + name, "(Tensor dets, Tensor scores, float iou) -> Tensor")
    from torchvision import transforms
"""
_TORCHVISION_EDIT = ("dataset.py", "from torchvision import transforms\n", _WITHOUT_OPERATORS)


def _edits(case: Case) -> tuple[SourceEdit, ...]:
    """What PyTorch, the CPU and the workload need, and the program has no configuration for."""
    edits = [_SCHEDULER_EDIT]
    if case.workload.network == "mobilefacenet":
        # Its own default is twice as wide as Chen et al.'s network.
        made = "def get_mbf(fp16, num_features, blocks=(1, 4, 6, 2), scale="
        edits.append(("backbones/mobilefacenet.py", f"{made}2):", f"{made}1):"))
    edits += original.dropout_edits(case, "train_v2.py")
    if case.device == "cpu":
        edits += [_TORCHVISION_EDIT, *_CPU_EDITS]
        if case.parallelism == "partial_fc":
            edits += _CPU_SAMPLING_EDITS
    return original.source_edits(_FOLDER, edits)


ADAPTER = ArcFaceTorchAdapter()
