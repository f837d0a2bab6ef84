"""The outline of every alignment program: train K steps on given weights and batches, write what came out.

`python -m frameworks.<framework>.align CASE_FILE INPUTS.npz OUTPUTS.npz`. docs/architecture.md, "Alignment",
lists the arrays of both files; `frameworks/common/align_inputs.py` makes the inputs.
"""

import sys
from typing import Callable, Dict, List, NamedTuple, Protocol

import numpy as np

from frameworks.common.case import Case, Rank, rank_from_environment, read_case
from frameworks.common.data import Batch
from frameworks.common.loop import Pending

Arrays = Dict[str, np.ndarray]


class Inputs(NamedTuple):
    """Names as in the network's table, the whole classifier among the parameters; a batch a step."""

    parameters: Arrays
    buffers: Arrays
    batches: List[Batch]


class AlignTrainer(Protocol):
    """A Trainer that shows what it computed; arrays are float32, or float64 in a float64 reference.

    A process shows what its own D devices hold (nearly always D = 1). What is replicated over devices is the
    same on all of them and is shown once; of a classifier that is split, each shows its own rows.
    """

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""

    def embeddings(self) -> np.ndarray:
        """What the last step's forward pass computed, [D B, E]."""

    def gradients(self) -> Arrays:
        """Of the last step's loss, the mean over the global batch, weight decay not added.

        Name -> array of the parameter's shape, reduced over all ranks. Called after the first step alone.
        """

    def parameters(self) -> Arrays:
        """The network's parameters and the classifier, as they are now."""

    def buffers(self) -> Arrays:
        """The running statistics [channels], or [D, channels] of several devices.

        The variance in the biased convention, n in the denominator.
        """


def run(make_trainer: Callable[[Case, Rank, Inputs], AlignTrainer]) -> None:
    """Do what the three arguments of the command line say; each process writes a file of its own."""
    case_file, inputs_file, outputs_file = sys.argv[1:4]
    case, rank = read_case(case_file), rank_from_environment()
    inputs = read_inputs(inputs_file, case, rank)
    made = computed(make_trainer(case, rank, inputs), inputs.batches)
    np.savez(outputs_name(outputs_file, rank.rank), **made)


def outputs_name(outputs_file: str, rank: int) -> str:
    """Where the process that starts with `rank` writes: OUTPUTS.npz, OUTPUTS.rank1.npz, ..."""
    return outputs_file if rank == 0 else outputs_file[: -len(".npz")] + f".rank{rank}.npz"


def computed(trainer: AlignTrainer, batches: List[Batch]) -> Arrays:
    """Train one step a batch; the arrays of OUTPUTS.npz."""
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
    """Read INPUTS.npz, of the batches the process's own share; KeyError where an array is missing."""
    size = case.batch_size_per_device
    own = slice(rank.rank * size, (rank.rank + rank.devices) * size)
    with np.load(path) as arrays:
        batches = [(images[own], labels[own]) for images, labels in zip(arrays["images"], arrays["labels"])]
        return Inputs(_with_prefix(arrays, "parameter/"), _with_prefix(arrays, "buffer/"), batches)


def _with_prefix(arrays: "np.lib.npyio.NpzFile", prefix: str) -> Arrays:
    return {key[len(prefix) :]: arrays[key] for key in arrays.files if key.startswith(prefix)}
