"""The outline of every alignment program: train K steps on given weights and batches, write the results.

`python -m frameworks.<framework>.align CASE_FILE INPUTS.npz OUTPUTS.npz`. docs/formats.md, "Alignment",
lists the arrays of both files; `frameworks/common/align_inputs.py` makes the inputs. With CASE_FILE alone the
program makes its own inputs, trains the case's measured iterations on them, and prints a fingerprint of every
array that went in or came out: nodes can be compared without sending arrays between them.
"""

import hashlib
import sys
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Protocol, Tuple

import numpy as np

from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import Case, Rank, rank_from_environment, read_case
from frameworks.common.data import Batch
from frameworks.common.events import EventLog
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
    """Run the command line; each process writes a file of its own, or prints the fingerprints."""
    case, rank = read_case(sys.argv[1]), rank_from_environment()
    if len(sys.argv) == 2:  # noqa: PLR2004
        _print_fingerprints(make_trainer, case, rank)
        return
    inputs_file, outputs_file = sys.argv[2:4]
    inputs = read_inputs(inputs_file, case, rank)
    made = computed(make_trainer(case, rank, inputs), inputs.batches)
    np.savez(outputs_name(outputs_file, rank.rank), **made)


def _print_fingerprints(
    make_trainer: Callable[[Case, Rank, Inputs], AlignTrainer], case: Case, rank: Rank
) -> None:
    given = align_inputs(case, case.measured_iterations)
    log = EventLog(rank.rank)
    for name, array in given.items():
        if not name.startswith("layout/"):
            log.event("fingerprint", fingerprint(array), name=f"input/{name}")
    inputs = Inputs(
        dict(_with_prefix(given, "parameter/")),
        dict(_with_prefix(given, "buffer/")),
        list(zip(given["images"], given["labels"])),
    )
    for name, array in computed(make_trainer(case, rank, inputs), inputs.batches).items():
        log.event("fingerprint", fingerprint(np.asarray(array)), name=name)


def fingerprint(array: np.ndarray) -> Dict[str, Any]:
    """What tells two arrays apart: `sha256` of the bytes, in float64 the Euclidean `norm` and a `projection`.

    The projection is the product with a fixed vector of +1 and -1: of two arrays it differs by about the norm
    of their difference. Both are None where they are not finite.
    """
    flat = np.ascontiguousarray(array).ravel()
    signs = np.random.default_rng(0).integers(0, 2, flat.size, dtype=np.int8) * 2 - 1
    wide = flat.astype(np.float64)
    with np.errstate(all="ignore"):
        numbers = {"norm": float(np.linalg.norm(wide)), "projection": float(wide @ signs)}
    return {
        "sha256": hashlib.sha256(flat.tobytes()).hexdigest(),
        **{name: number if np.isfinite(number) else None for name, number in numbers.items()},
    }


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
        parameters = dict(_with_prefix(arrays, "parameter/"))
        parameters[CLASSIFIER] = parameters[CLASSIFIER][held.start : held.stop]
        return Inputs(parameters, dict(_with_prefix(arrays, "buffer/")), batches)


def _with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> Iterator[Tuple[str, np.ndarray]]:
    """The names without the prefix, and the arrays."""
    return ((key[len(prefix) :], arrays[key]) for key in arrays if key.startswith(prefix))


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
