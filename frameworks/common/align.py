"""The outline of every alignment program: train K steps on given weights and batches, write the results.

`python -m frameworks.<framework>.align CASE_FILE INPUTS.npz OUTPUTS.npz`. docs/formats.md, "Alignment",
lists the arrays of both files; `frameworks/common/align_inputs.py` makes the inputs.
"""

import sys
from typing import Callable, Dict, List, NamedTuple, Protocol

import numpy as np

from frameworks.common.case import Case, Rank, rank_from_environment, read_case
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER
from frameworks.common.loop import Pending
from frameworks.common.margin import held_classes
from frameworks.common.networks import BATCH_NORM_MOMENTUM, layers_of, map_sides

Arrays = Dict[str, np.ndarray]


class Inputs(NamedTuple):
    """Arrays by the table's names, the classifier with only the process's own classes; one batch per step."""

    parameters: Arrays
    buffers: Arrays
    batches: List[Batch]


class AlignTrainer(Protocol):
    """A Trainer that shows what it computed; arrays are float32, or float64 in a float64 reference.

    A process shows what its own D devices hold, nearly always one. Arrays that are the same on all devices
    are shown once; each process shows its own rows of a split classifier.
    """

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""

    def embeddings(self) -> np.ndarray:
        """The embeddings of the last step, [D B, E]."""

    def gradients(self) -> Arrays:
        """The gradients of the last step's loss, the mean over the global batch, without weight decay.

        Name -> array of the parameter's shape, reduced over all ranks. Called only after the first step.
        """

    def parameters(self) -> Arrays:
        """The network's parameters and the classifier, as they are now."""

    def buffers(self) -> Arrays:
        """The running statistics [channels], or [D, channels] for several devices; biased variances (n)."""


def run(make_trainer: Callable[[Case, Rank, Inputs], AlignTrainer]) -> None:
    """Run the command line's three arguments; each process writes a file of its own."""
    case_file, inputs_file, outputs_file = sys.argv[1:4]
    case, rank = read_case(case_file), rank_from_environment()
    inputs = read_inputs(inputs_file, case, rank)
    made = computed(make_trainer(case, rank, inputs), inputs.batches)
    np.savez(outputs_name(outputs_file, rank.rank), **made)


def outputs_name(outputs_file: str, rank: int) -> str:
    """The output file of the process that starts with `rank`: OUTPUTS.npz, OUTPUTS.rank1.npz, ..."""
    return outputs_file if rank == 0 else outputs_file[: -len(".npz")] + f".rank{rank}.npz"


def computed(trainer: AlignTrainer, batches: List[Batch]) -> Arrays:
    """Train one step per batch; the arrays of OUTPUTS.npz."""
    outputs: Arrays = {}
    losses = []
    for iteration, batch in enumerate(batches):
        losses.append(trainer.step(batch, iteration).wait())
        if iteration == 0:
            outputs["embeddings"] = trainer.embeddings()
            for name, gradient in trainer.gradients().items():
                outputs["gradient_norm/" + name] = np.linalg.norm(gradient.astype(np.float64))
            outputs.update(_prefixed("first_step/", trainer))
    return {**outputs, "losses": np.array(losses, np.float64), **_prefixed("", trainer)}


def _prefixed(prefix: str, trainer: AlignTrainer) -> Arrays:
    """Parameters and buffers as they are now."""
    now = {f"{prefix}parameter/{name}": array.copy() for name, array in trainer.parameters().items()}
    now.update({f"{prefix}buffer/{name}": array.copy() for name, array in trainer.buffers().items()})
    return now


def read_inputs(path: str, case: Case, rank: Rank) -> Inputs:
    """Read the process's own part of INPUTS.npz; KeyError if an array is missing."""
    size, held = case.batch_size_per_device, held_classes(case, rank)
    own = slice(rank.rank * size, (rank.rank + rank.devices) * size)
    with np.load(path) as arrays:
        batches = [(images[own], labels[own]) for images, labels in zip(arrays["images"], arrays["labels"])]
        parameters = _with_prefix(arrays, "parameter/")
        parameters[CLASSIFIER] = parameters[CLASSIFIER][held.start : held.stop]
        return Inputs(parameters, _with_prefix(arrays, "buffer/"), batches)


def _with_prefix(arrays: "np.lib.npyio.NpzFile", prefix: str) -> Arrays:
    return {key[len(prefix) :]: arrays[key] for key in arrays.files if key.startswith(prefix)}


def with_biased_variances(case: Case, steps: int, initial: Arrays, buffers: Arrays) -> Arrays:
    """The running statistics of an engine with unbiased variances (n - 1), in the biased convention (n).

    Every batch had the same n, so everything that `steps` batches added scales by (n - 1) / n.
    """
    sides, biased = map_sides(layers_of(case)), dict(buffers)
    for name, array in buffers.items():
        if name.endswith(".running_var") and case.batch_norm != "frozen":
            values = case.batch_size_per_device * sides[name.rpartition(".")[0]] ** 2
            kept = BATCH_NORM_MOMENTUM**steps * initial[name].astype(np.float64)
            running = array.astype(np.float64)
            biased[name] = (kept + (running - kept) * (values - 1) / values).astype(array.dtype)
    return biased
