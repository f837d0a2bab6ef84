"""The outline of every alignment program: train K steps on given weights and batches, write what came out.

`python -m frameworks.<framework>.align CASE_FILE INPUTS.npz OUTPUTS.npz`. docs/architecture.md, "Alignment",
lists the arrays of both files; `frameworks/common/align_inputs.py` makes the inputs.
"""

import sys
from typing import Callable, Dict, List, NamedTuple, Protocol

import numpy as np

from frameworks.common.case import Case, read_case
from frameworks.common.data import Batch
from frameworks.common.loop import Pending

Arrays = Dict[str, np.ndarray]


class Inputs(NamedTuple):
    """Names as in the network's table, the classifier among the parameters; one entry of `batches` a step."""

    parameters: Arrays
    buffers: Arrays
    batches: List[Batch]


class AlignTrainer(Protocol):
    """A Trainer that shows what it computed; arrays are float32, or float64 in a float64 reference."""

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""

    def embeddings(self) -> np.ndarray:
        """What the last step's forward pass computed, [B, E]."""

    def gradients(self) -> Arrays:
        """Of the last step's loss, weight decay not added: name -> array of the parameter's shape.

        Called after the first step alone.
        """

    def parameters(self) -> Arrays:
        """The network's parameters and the classifier, as they are now."""

    def buffers(self) -> Arrays:
        """The running statistics; the variance in the biased convention, n in the denominator."""


def run(make_trainer: Callable[[Case, Inputs], AlignTrainer]) -> None:
    """Do what the three arguments of the command line say."""
    case_file, inputs_file, outputs_file = sys.argv[1:4]
    case, inputs = read_case(case_file), read_inputs(inputs_file)
    np.savez(outputs_file, **computed(make_trainer(case, inputs), inputs.batches))


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


def read_inputs(path: str) -> Inputs:
    """Read INPUTS.npz; KeyError where an array is missing."""
    with np.load(path) as arrays:
        batches = list(zip(arrays["images"], arrays["labels"]))
        return Inputs(_with_prefix(arrays, "parameter/"), _with_prefix(arrays, "buffer/"), batches)


def _with_prefix(arrays: "np.lib.npyio.NpzFile", prefix: str) -> Arrays:
    return {key[len(prefix) :]: arrays[key] for key in arrays.files if key.startswith(prefix)}
