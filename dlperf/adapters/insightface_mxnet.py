"""InsightFace's own trainers for MXNet; docs/engines/insightface_mxnet.md has what a user should know.

The parallelism chooses the program: `data` is ArcFace's train.py, `model` its train_parall.py, `partial_fc`
Partial FC's train_memory.py. The first two drive all devices from one process, the third one device each.
"""

import math
from dataclasses import replace

from pydantic import Field

from dlperf.adapters import original
from dlperf.adapters.base import (
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
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind
from dlperf.plan.machine import Gpu
from dlperf.wording import plural

_ARCFACE = "recognition/ArcFace"
_PARTIAL_FC = "recognition/partial_fc/mxnet"
_FOLDERS = (_ARCFACE, "recognition/common", "recognition/symbol", _PARTIAL_FC)
_COMMITS = ("863a7ea9ea0c0355d63c17e3c24e1373ed6bec55", "a9beb60971fb8115698859c35fdca721d6f75f5d")

# What the programs import besides MXNet and Horovod. They use scipy.misc, which 1.12 dropped, and mxboard's
# messages, which newer versions of protobuf refuse. The rest is the newest for Python 3.8.
_PINS = (
    "scipy==1.10.1",
    "scikit-learn==1.3.2",
    "joblib==1.4.2",
    "threadpoolctl==3.5.0",
    "opencv-python-headless==4.10.0.84",
    "easydict==1.13",
    "mxboard==0.1.0",
    "protobuf==3.20.3",
    "pillow==10.4.0",
    "six==1.17.0",
)
# protobuf's compiled part and the protobuf in libmxnet.so crash in one process.
_PURE_PROTOBUF = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
_IMPORT_CHECK = """\
import os
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
import cv2, easydict, google.protobuf, scipy.misc, sklearn.model_selection
"""
_MXBOARD_CHECK = "import mxboard\n"  # it imports MXNet, which on CUDA needs the driver

_LAYERS = {"iresnet18": 18, "iresnet34": 34, "iresnet50": 50, "iresnet100": 100}

# What the programs fix.
_DROPOUT = 0.4
_CLASSIFIER_STD = 0.01
_DECAY = 0.1
_PARTIAL_FC_MOMENTUM = 0.9
_PARTIAL_FC_WEIGHT_DECAY = 0.0005


class InsightFaceMXNetOptions(Model):
    """What a sweep may set under `options: {insightface_mxnet: ...}`."""

    tf32: bool | None = Field(
        default=None,
        description="Let CUDA compute float32 products in TF32, as MXNet does by default; left out, off.",
    )


class InsightFaceMXNetAdapter:
    """The adapter for InsightFace's trainers of 2020 on MXNet 1.8 and 1.9."""

    name = "insightface_mxnet"
    title = "InsightFace (MXNet)"
    source = ProgramSource(
        engine=MXNET.name,
        url="https://github.com/deepinsight/insightface",
        folders=_FOLDERS,
        commits=_COMMITS,
    )
    inherited_variables = MXNET.inherited_variables
    alignable = False
    versions = MXNET.versions
    options = InsightFaceMXNetOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """MXNet's environment with Horovod and what the programs import; ValueError as MXNet's.

        One device has Horovod too, because Partial FC imports it always.
        """
        spec = MXNET.environment(version, device, parallel=True, gpu=gpu)
        check = _IMPORT_CHECK + (_MXBOARD_CHECK if device == "cpu" else "")
        return replace(
            spec,
            framework=self.name,
            requirements=(*spec.requirements, *_PINS),
            import_check=check + spec.import_check,
            builds=tuple(replace(build, without=_PINS) for build in spec.builds),
            parallel=parallel,
            notes=f"{spec.notes}; 100 MB more are the programs' own packages",
        )

    def unsupported(self, case: Case) -> str | None:
        """The reason why this case cannot run; None if it can."""
        return (
            original.without_place(case)
            or ("the programs read a data set; add data: {path: ...}" if case.data is None else None)
            or original.without_data(case, "recordio")
            or _without_precision(case)
            or original.without_optimizer(case)
            or _without_workload(case)
            or _without_margin(case)
            or (_without_partial_fc(case) if case.parallelism == "partial_fc" else None)
            or _without_lines(case)
        )

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """The one command that runs the program on all devices."""
        engine = MXNET.rank_commands(launch)[0]
        program = (_partial_fc if launch.case.parallelism == "partial_fc" else _arcface)(launch)
        command = program_command(launch, program)
        # The command's win: dlperf's own loop leaves threads to its reader, which the programs lack.
        return (replace(command, env={**engine.env, **command.env}, paths=engine.paths),)


def _without_precision(case: Case) -> str | None:
    if case.parallelism != "partial_fc" and case.precision != "fp32":
        return f"{_script(case)} trains fp32 alone"
    # Without what dlperf's own loop cannot read.
    if reason := MXNET.unsupported(case.model_copy(update={"data": None})):
        return reason
    if case.precision == "fp16" and case.gradient_dtype != "float16":
        return "train_memory.py adds fp16 gradients up in float16; write gradient_dtype: float16"
    return None


def _without_workload(case: Case) -> str | None:
    work = case.workload
    if work.head == "E" and work.dropout != _DROPOUT:
        return f"the networks drop {_DROPOUT} of head E, not {work.dropout}"
    if work.classifier_init_std != _CLASSIFIER_STD:
        return f"the programs draw the classifier's weights with standard deviation {_CLASSIFIER_STD}"
    if not all(
        math.isclose(scale, _DECAY**number, rel_tol=1e-6)
        for number, scale in enumerate(work.schedule.scales, 1)
    ):
        return "the programs multiply the learning rate by 0.1 at each step; write scales: [0.1, 0.01, ...]"
    return None


def _without_margin(case: Case) -> str | None:
    loss = case.workload.loss
    if case.parallelism != "model" or (loss.m1, loss.m2, loss.m3) != (1.0, 0.0, 0.0):
        return None
    return "train_parall.py needs a margin: the label is in its graph only with one"


def _without_partial_fc(case: Case) -> str | None:
    work = case.workload
    if work.network not in _LAYERS:
        return f"train_memory.py has IResNets alone, no {work.network}"
    if reason := original.without_optimizer(case, momentum=_PARTIAL_FC_MOMENTUM):
        return reason
    if work.optimizer.weight_decay != _PARTIAL_FC_WEIGHT_DECAY:
        return f"train_memory.py has weight decay {_PARTIAL_FC_WEIGHT_DECAY} alone"
    return None


def _without_lines(case: Case) -> str | None:
    needed = 1 if case.parallelism == "partial_fc" else 2  # ArcFace's clock starts after the first
    iterations = _iterations_per_epoch(case)
    if iterations >= needed or case.data is None:
        return None
    batch = original.largest_batch(case) * case.topology.world_size
    smaller = " or a smaller upper bound of the search" if case.search else ""
    return (
        f"{plural(case.data.images, 'image')} make {plural(iterations, 'iteration')} of {batch} samples per "
        f"epoch and {_script(case)} needs {needed}; use a larger data set{smaller}"
    )


def _script(case: Case) -> str:
    return {"data": "train.py", "model": "train_parall.py", "partial_fc": "train_memory.py"}[case.parallelism]


def _iterations_per_epoch(case: Case) -> int:
    return original.iterations_per_epoch(case, synthetic=0)


def _iterations_per_line(case: Case) -> int:
    """The largest of `original.LINES` that divides warm-up and measured iterations and fits into an epoch.

    In ArcFace an epoch's lines cover whole multiples of it, from the second iteration on; what is left at
    the end is in no line. In Partial FC the first line covers one iteration less than it says, so there has
    to be a warm-up if a line covers several.
    """
    counts = (case.measure.warmup_iterations, case.measure.measured_iterations)
    longest = _iterations_per_epoch(case) - 1
    if case.parallelism == "partial_fc":
        longest = 1 if case.measure.warmup_iterations == 0 else original.NEVER
    return next((n for n in original.LINES if n <= longest and not any(count % n for count in counts)), 1)


def _arcface(launch: Launch) -> Program:
    """train.py or train_parall.py: one process drives all devices."""
    case = launch.case
    optimizer, schedule = case.workload.optimizer, case.workload.schedule
    frequent = _iterations_per_line(case)
    arguments = {
        "--network": case.workload.network,
        "--dataset": "case",
        "--loss": case.workload.loss.kind,
        "--models-root": "models",
        "--ckpt": 0,
        "--verbose": original.NEVER,
        "--lr": schedule.learning_rate,
        "--lr-steps": _steps(case),
        "--wd": optimizer.weight_decay,
        "--mom": optimizer.momentum,
        "--frequent": frequent,
        "--per-batch-size": case.batch_size_per_device,
    }
    words = [str(word) for pair in arguments.items() for word in pair]
    devices = case.topology.world_size
    python, script = str(launch.python), _script(case)
    argv = [python, "-m", "frameworks.original.script", script, *words]
    env: dict[str, str] = {}
    if case.device == "cuda":
        argv = [python, "-m", "frameworks.original.first_devices", str(devices), *argv]
        env["MXNET_CPU_WORKER_NTHREADS"] = str(case.threads_per_device * devices)
    else:
        env["CUDA_VISIBLE_DEVICES"] = ""
    return Program(
        processes=(ProgramProcess(argv=tuple(argv), env=env, folder=_ARCFACE),),
        dialect="insightface_mxnet",
        iterations_per_line=frequent,
        distribution=_distribution(case.device),
        data_form="recordio",
        edits=_arcface_edits(case),
        files={f"{_ARCFACE}/config.py": _arcface_config(case)},
    )


def _arcface_edits(case: Case) -> tuple[SourceEdit, ...]:
    """For the CPU, of which the programs know one device, and train_parall.py none for the classifier."""
    if case.device == "cuda":
        return ()
    edits = []
    if case.topology.world_size > 1:
        contexts = f"ctx = [mx.cpu(i) for i in range({case.topology.world_size})]"
        edits.append((_script(case), "ctx = [mx.cpu()]", contexts))
    if case.parallelism == "model":
        edits.append(("parall_module_local_v1.py", "context=mx.gpu(i),", "context=self._context[i],"))
    return original.source_edits(_ARCFACE, edits)


def _arcface_config(case: Case) -> str:
    """config.py, which a user of the programs makes from sample_config.py."""
    work, data = case.workload, case.data
    layers = _LAYERS.get(work.network)
    network: dict[str, object] = {
        "net_name": "fmobilefacenet" if layers is None else "fresnet",
        **({} if layers is None else {"num_layers": layers}),
        "net_output": work.head,
        "emb_size": work.embedding_size,
    }
    loss: dict[str, object] = {"loss_name": "margin_softmax", **original.margins(case)}
    dataset: dict[str, object] = {
        "dataset": "case",
        "dataset_path": data.path if data else "",
        "num_classes": case.num_classes,
        "image_shape": (112, 112, 3),
        "val_targets": [],
    }
    return (
        "# Written by dlperf for one case. All else is as in sample_config.py.\n"
        "from sample_config import config, dataset, default, generate_config, loss, network\n\n"
        f"network[{work.network!r}] = {original.literal(network)}\n"
        f"loss[{work.loss.kind!r}] = {original.literal(loss)}\n"
        f"dataset['case'] = {original.literal(dataset)}\n"
    )


_PARTIAL_FC_CPU_EDITS = (
    ("memory_module.py", "mx.gpu(self.local_rank)", "mx.cpu()"),
    ("memory_bank.py", "mx.gpu(local_rank)", "mx.cpu()"),
)


def _partial_fc(launch: Launch) -> Program:
    """train_memory.py: a process per device, which Horovod joins."""
    case = launch.case
    return Program(
        processes=tuple(_partial_fc_process(launch, placement) for placement in launch.placements),
        dialect="partial_fc_mxnet",
        iterations_per_line=_iterations_per_line(case),
        distribution=_distribution(case.device),
        data_form="recordio",
        edits=() if case.device == "cuda" else original.source_edits(_PARTIAL_FC, _PARTIAL_FC_CPU_EDITS),
        files={
            f"{_PARTIAL_FC}/default.py": _partial_fc_config(case),
            # Its folder is there before the first process makes it, which the others wait 2 s for.
            f"{_PARTIAL_FC}/models/made_by_dlperf": "",
        },
    )


def _partial_fc_process(launch: Launch, placement: RankPlacement) -> ProgramProcess:
    env = {**rank_environment(launch, placement), **_PURE_PROTOBUF}
    if launch.case.device == "cuda":
        env["MXNET_CPU_WORKER_NTHREADS"] = str(launch.case.threads_per_device)
    else:
        env["CUDA_VISIBLE_DEVICES"] = ""
    launcher = (str(launch.python), "-m", "frameworks.original.horovod")
    words = (*launcher, "train_memory.py", "--models-root", "models")
    return ProgramProcess(argv=words, env=env, folder=_PARTIAL_FC)


def _partial_fc_config(case: Case) -> str:
    """default.py, which holds a table of data sets and networks that cannot be added to from outside."""
    work, data = case.workload, case.data
    config: dict[str, object] = {
        "net_name": "resnet",
        "num_layers": _LAYERS[work.network],
        "net_output": work.head,
        "net_input": 1,
        "net_unit": 3,
        "net_act": "prelu",
        "net_se": 0,
        "bn_mom": 0.9,
        "workspace": 256,
        "memonger": False,
        "image_size": 112,
        "embedding_size": work.embedding_size,
        **original.margins(case),
        "num_classes": case.num_classes,
        "sample_ratio": case.sample_ratio,
        "rec": f"{data.path}/train.rec" if data else "",
        "val_targets": [],
        "batch_size": case.batch_size_per_device,
        "backbone_lr": work.schedule.learning_rate,
        "memory_bank_lr": work.schedule.learning_rate,
        "lr_steps": _steps(case),
        "fp16": case.precision == "fp16",
        "frequent": _iterations_per_line(case),
        "verbose": original.NEVER,
        "max_update": 0,  # without end
        "debug": 0,
    }
    return (
        "# Written by dlperf for one case, in place of the program's own file.\n"
        "from easydict import EasyDict\n\n"
        f"config = EasyDict({original.literal(config)})\n\n\n"
        "def generate_config(loss_name, dataset, network):\n"
        '    """Nothing is left to choose."""\n'
    )


def _steps(case: Case) -> str:
    return ",".join(map(str, case.workload.schedule.steps or (original.NEVER,)))


def _distribution(device: DeviceKind) -> str:
    return "mxnet-cu112" if device == "cuda" else "mxnet"


ADAPTER = InsightFaceMXNetAdapter()
