"""What adapters of original programs share: what such programs lack, and how their averages are chosen.

Each reads one configuration module, which is written for a case.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from dlperf.adapters.base import SourceEdit
from dlperf.plan.case import Case, DataForm
from dlperf.wording import plural

# Iterations that one line may average over, the longest first.
LINES: Final = (50, 20, 10, 5, 2, 1)
# No run gets to this iteration or epoch, so neither to a verification, a checkpoint or another learning rate.
NEVER: Final = 2**31 - 1


def iterations_per_line(case: Case, *, epoch: int = NEVER) -> int | None:
    """The most iterations per line that divide warm-up and measured ones; None where an epoch is too short.

    `epoch` is the number of iterations of an epoch. The programs start their clock with what would be the
    first line, so a line's worth of iterations comes before the warm-up.
    """
    counts = (case.measure.warmup_iterations, case.measure.measured_iterations)
    fitting = (length for length in LINES if not any(count % length for count in counts))
    return next((length for length in fitting if length + sum(counts) <= epoch), None)


def iterations_per_epoch(case: Case, *, synthetic: int) -> int:
    """Whole batches in an epoch; without a data set it has `synthetic` images."""
    images = case.data.images if case.data is not None else synthetic
    return images // (largest_batch(case) * case.topology.world_size)


def without_lines(case: Case, *, epoch: int) -> str | None:
    """Why a run does not fit into an epoch, or needs a learning rate that the program changes by epochs."""
    measure = case.measure
    counted = measure.warmup_iterations + measure.measured_iterations
    per_line = iterations_per_line(case, epoch=epoch)
    if per_line is None:
        images = (1 + counted) * largest_batch(case) * case.topology.world_size
        larger = "" if case.data is None else f"take a data set of at least {plural(images, 'image')}, or "
        return (
            f"the program saves its model at the end of an epoch, and one of {plural(epoch, 'iteration')} "
            f"ends within the run; {larger}measure fewer iterations"
        )
    change = next((step for step in case.workload.schedule.steps if step < per_line + counted), None)
    if change is None:
        return None
    return (
        "the program changes the learning rate with the epoch alone, and the schedule does so in iteration "
        f"{change}; leave out schedule.steps"
    )


def without_place(case: Case) -> str | None:
    """Why no original program can train the case where it would run."""
    if case.topology.nodes > 1:
        return "dlperf starts original programs on one node alone"
    if case.workload.batch_norm == "frozen":
        return "the program always normalises by the batch; leave out batch_norm: frozen"
    return None


def without_data(case: Case, form: DataForm) -> str | None:
    """Why a program that reads `form`, or synthetic images, cannot read the data of the case."""
    if case.data is None:
        return None
    if form not in case.data.forms:
        names = {"recordio": "RecordIO", "ofrecord": "OFRecord"}
        return (
            f"the program reads {names[form]} and {case.data.name} has none; convert it: dlperf data convert"
        )
    if case.data.read == "memory":
        return "the program decodes images while it trains; take read: warm or read: cold"
    if case.data.classes > case.num_classes:
        return f"{case.data.name} has {case.data.classes} classes, more than num_classes: {case.num_classes}"
    return None


def without_optimizer(case: Case, *, momentum: float | None = None) -> str | None:
    """Why SGD with coupled weight decay of all parameters, and the `momentum` if any, is not the case's."""
    optimizer = case.workload.optimizer
    if optimizer.decay != "coupled" or optimizer.no_decay:
        return "the program decays every parameter, coupled; leave out decay and no_decay"
    if momentum is not None and optimizer.momentum != momentum:
        return f"the program has momentum {momentum} alone, not {optimizer.momentum}"
    return None


def without_scale(case: Case, scale: float) -> str | None:
    """Why the case's loss is not one of a program that has only this scale."""
    if case.workload.loss.scale == scale:
        return None
    return f"the program scales cosines by {scale:g} alone, not {case.workload.loss.scale:g}"


def without_equal_shares(case: Case) -> str | None:
    """Why a program cannot run the case that gives every device the same number of classes."""
    devices = case.topology.world_size
    if case.num_classes % devices == 0:
        return None
    aligned = -(-case.num_classes // devices) * devices
    return (
        "the program gives every device the same number of classes; take a num_classes that "
        f"{devices} divides, such as {aligned}"
    )


def source_edits(folder: str, edits: Iterable[tuple[str, str, str]]) -> tuple[SourceEdit, ...]:
    """Edits of files in a folder of the source: a file, what stands there, and what takes its place."""
    return tuple(SourceEdit(file=f"{folder}/{file}", before=old, after=new) for file, old, new in edits)


def dropout_edits(case: Case, file: str) -> list[tuple[str, str, str]]:
    """For head E, whose dropout arcface_torch and arcface_oneflow fix at none."""
    work = case.workload
    if work.head != "E" or work.dropout == 0:
        return []
    return [(file, "cfg.network, dropout=0.0,", f"cfg.network, dropout={work.dropout!r},")]


def margins(case: Case) -> dict[str, float]:
    """The loss as the configurations of InsightFace (MXNet) and oneflow_face name its parts."""
    loss = case.workload.loss
    return {"loss_s": loss.scale, "loss_m1": loss.m1, "loss_m2": loss.m2, "loss_m3": loss.m3}


def find_parts(folder: str, count: str) -> str:
    """Python that makes of the folder of a data set, in a variable, that of its parts, and counts them.

    The places where they may lie are in the order of dlperf/data/dataset.py.
    """
    return f"""
import glob
import os
for name in ("ofrecord/train", "ofrecord", "train", "."):
    parts = glob.glob(os.path.join(glob.escape({folder}), name, "part-*"))
    if parts:
        {folder} = os.path.join({folder}, name)
        {count} = len(parts)
        break
"""


def config_module(values: Mapping[str, object]) -> str:
    """The configuration of a case as a Python module."""
    return (
        "# Written by dlperf for one case.\n"
        "from easydict import EasyDict\n\n"
        f"config = EasyDict({literal(values)})\n"
    )


def literal(values: Mapping[str, object]) -> str:
    """A Python dictionary, one line per key; values become literals, so that no text of a user is code."""
    lines = "".join(f"    {name!r}: {value!r},\n" for name, value in values.items())
    return f"{{\n{lines}}}"


def largest_batch(case: Case) -> int:
    """Samples per iteration and device; of a search for the largest batch, the largest that it may try."""
    search = case.search
    if search is not None and search.axis == "batch_size_per_device":
        return search.upper
    return case.batch_size_per_device
