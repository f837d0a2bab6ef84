"""OneFlow's first face-recognition trainer, insightface_train.py of oneflow_face for OneFlow 0.3.

PyPI has no OneFlow 0.3 any more, so this was never run; docs/engines/oneflow_face.md says what is tested.
"""

from dlperf.adapters import original
from dlperf.adapters.base import (
    TF32,
    CudaBuild,
    EnvironmentSpec,
    Launch,
    Program,
    ProgramProcess,
    ProgramSource,
    RankCommand,
    SourceEdit,
    program_command,
    rank_environment,
    require_known,
)
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind
from dlperf.plan.machine import Gpu

# The last commit with this program on the branch master.
_COMMITS = ("2739b19b03e45132eba6ab910e051c99936ca797",)
_VERSIONS = ("0.3.4",)
_DISTRIBUTION = "oneflow_cu102"
_CUDA = CudaBuild(toolkit="10.2", capabilities=("6.0", "6.1", "7.0", "7.5"), driver="440.33")

_NETWORKS = {"iresnet100": "fresnet100", "mobilefacenet": "fmobilefacenet"}
# What the program fixes.
_DROPOUT = 0.4


class OneFlowFaceOptions(Model):
    """What a sweep may set under `options: {oneflow_face: ...}`."""

    tf32: bool = TF32


class OneFlowFaceAdapter:
    """The adapter for oneflow_face of 2021."""

    name = "oneflow_face"
    title = "oneflow_face"
    source = ProgramSource(
        engine="oneflow", url="https://github.com/Oneflow-Inc/oneflow_face", folders=(".",), commits=_COMMITS
    )
    inherited_variables = ("ONEFLOW_*",)
    alignable = False
    versions = _VERSIONS
    options = OneFlowFaceOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """What the program imports. OneFlow itself can only come from the user: a wheel, links or a Python.

        ValueError on cpu and for other versions.
        """
        del parallel, gpu
        require_known(self.name, version, _VERSIONS)
        if device == "cpu":
            raise ValueError("oneflow_face trains on cuda alone")
        return EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=("3.8",),
            requirements=(
                f"{_DISTRIBUTION}=={version}",
                "numpy==1.23.5",
                "easydict==1.13",
                "scikit-learn==1.3.2",
                "scipy==1.10.1",
            ),
            import_check="import easydict, sklearn.model_selection, scipy.interpolate\n"
            "import oneflow; print(oneflow.__version__)",
            cuda=_CUDA,
            notes=f"OneFlow {version} is no longer on PyPI: give your own in the sweep, python: or wheel:",
        )

    def unsupported(self, case: Case) -> str | None:
        """The reason why this case cannot run; None if it can."""
        if case.device == "cpu":
            return "oneflow_face trains on cuda alone"
        return (
            original.without_place(case)
            or original.without_data(case, "ofrecord")
            or _without_workload(case)
            or _without_precision(case)
        )

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """The one command that runs the program: one process drives all devices."""
        case = launch.case
        per_line = original.iterations_per_line(case) or 1
        words = (str(word) for pair in _arguments(case, per_line).items() for word in pair)
        process = ProgramProcess(
            argv=(str(launch.python), "insightface_train.py", *words),
            env=rank_environment(launch, launch.placements[0]),
        )
        program = Program(
            processes=(process,),
            dialect="oneflow_face",
            iterations_per_line=per_line,
            distribution=_DISTRIBUTION,
            data_form="ofrecord",
            edits=(_edit(case),),
        )
        return (program_command(launch, program),)


def _without_workload(case: Case) -> str | None:
    work = case.workload
    if work.network not in _NETWORKS:
        return f"the program has IResNet-100 and MobileFaceNet alone, no {work.network}"
    if work.head == "E" and work.dropout != _DROPOUT:
        return f"the program drops {_DROPOUT} of head E, not {work.dropout}"
    if work.optimizer.decay != "decoupled" or work.optimizer.no_decay:
        return "the program decays every parameter, decoupled; write decay: decoupled without no_decay"
    return None


def _without_precision(case: Case) -> str | None:
    if case.precision == "bf16":
        return "OneFlow 0.3 has mixed precision in fp16 alone"
    if case.gradient_dtype != "float32":
        return f"the program has no such setting; leave out gradient_dtype: {case.gradient_dtype}"
    return original.without_equal_shares(case)


def _arguments(case: Case, per_line: int) -> dict[str, object]:
    optimizer, schedule = case.workload.optimizer, case.workload.schedule
    return {
        "--network": "dlperf",
        "--dataset": "dlperf",
        "--loss": "dlperf",
        "--device_num_per_node": case.topology.devices_per_node,
        "--model_parallel": int(case.parallelism != "data"),
        "--partial_fc": int(case.parallelism == "partial_fc"),
        "--sample_ratio": 1.0 if case.sample_ratio is None else case.sample_ratio,
        "--use_synthetic_data": int(case.data is None),
        "--use_fp16": int(case.precision == "fp16"),
        "--train_unit": "batch",
        "--train_iter": original.NEVER,
        "--lr": schedule.learning_rate,
        "--lr_steps": ",".join(map(str, schedule.steps or (original.NEVER,))),
        "--scales": ",".join(map(str, schedule.scales or (0.1,))),
        "--weight_decay": optimizer.weight_decay,
        "--momentum": optimizer.momentum,
        "--loss_print_frequency": per_line,
        "--do_validation_while_train": 0,
        "--validation_interval": original.NEVER,
        "--iter_num_in_snapshot": original.NEVER,
        "--models_root": "models",
        "--log_dir": "log",
    }


def _edit(case: Case) -> SourceEdit:
    """The network, data set and loss of the case, among those of sample_config.py."""
    work, data = case.workload, case.data
    network: dict[str, object] = {
        "net_name": _NETWORKS[work.network],
        "emb_size": work.embedding_size,
        "fc_type": work.head,
        "bn_is_training": True,
        "input_channel": 512,
    }
    dataset: dict[str, object] = {
        "dataset": "dlperf",
        "dataset_dir": "" if data is None else data.path,
        "num_classes": case.num_classes,
        "total_img_num": original.NEVER if data is None else data.images,
        "part_name_prefix": "part-",
        "part_name_suffix_length": 5,
        "train_data_part_num": 0,
        "shuffle": True,
        "train_batch_size_per_device": case.batch_size_per_device,
    }
    loss: dict[str, object] = {"loss_name": "margin_softmax", **original.margins(case)}
    lines = [
        f"{table}.dlperf = edict({original.literal(values)})\n"
        for table, values in {"network": network, "dataset": dataset, "loss": loss}.items()
    ]
    find_parts = original.find_parts("dataset.dlperf.dataset_dir", "dataset.dlperf.train_data_part_num")
    find = "" if data is None else find_parts
    return SourceEdit(
        file="sample_config.py",
        before="# default settings\n",
        after="# the case, from dlperf\n" + "".join(lines) + find + "\n# default settings\n",
    )


ADAPTER = OneFlowFaceAdapter()
