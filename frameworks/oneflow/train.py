"""Train a case with OneFlow: one nn.Graph from the uint8 images to the updated parameters, over all ranks."""

from functools import partial
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common import program
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import initial_arrays
from frameworks.common.loop import HostTimed
from frameworks.common.margin import held_classes
from frameworks.common.networks import INPUT_SHAPE
from frameworks.common.phases import COMMUNICATION, DATA, GRAPH, Phases
from frameworks.common.sampling import sample_sizes, too_many_positives
from frameworks.oneflow.data import OneFlowReader
from frameworks.oneflow.head_sharded import HostSamples, positives_counter, samples_on_host
from frameworks.oneflow.model import TrainingGraph, make_module
from frameworks.oneflow.network import named_arrays
from frameworks.oneflow.optimizer import Momentum, add_optimizers, shares
from frameworks.oneflow.parallel import AS_SUM, BY_ROWS, join, own_part
from frameworks.oneflow.precision import make_scaler
from frameworks.oneflow.rendezvous import run_and_leave
from frameworks.oneflow.settings import facts, matmul_flops_per_second, synchronize


class PendingStep(HostTimed):
    """A step in the engine's queue."""

    def __init__(self, loss: Tensor, token: Tensor, positives: List[Tensor], sampled: int) -> None:
        """`positives` holds their count, if the device samples; `sampled` is the limit."""
        self._loss, self._token = loss, token
        self._positives, self._sampled = positives, sampled

    def wait(self) -> float:
        """Block until the step's updates are done; return its loss.

        Raises:
            ValueError: the batch named more classes of a rank than it samples.
        """
        self._token.numpy()
        for count in self._positives:
            found = int(own_part(count).numpy())
            if found > self._sampled:
                raise ValueError(too_many_positives(found, self._sampled))
        return float(own_part(self._loss).numpy())


class OneFlowTrainer:
    """`Trainer` of frameworks/common/loop.py: this rank's part of it."""

    def __init__(self, case: Case, rank: Rank, arrays: Dict[str, np.ndarray]) -> None:
        """Build and compile the case's graph; `arrays` holds every parameter and buffer by the table's name.

        The classifier in it has only the rows of the rank's own classes.
        """
        flow.manual_seed(case.seed)  # dropout
        self._ranks, self._iterations = join(case, rank), 0
        self._samples = HostSamples(case, rank) if samples_on_host(case) else None
        self._fewest_sampled = min(sample_sizes(case))
        self.module = make_module(case, self._ranks, arrays)
        self.arrays = named_arrays(self.module)
        self.trained = {name: array for name, array in self.arrays.items() if isinstance(array, nn.Parameter)}
        self.phases = Phases(self.start_window)
        self.graph = self._compiled(case)
        self._momentum = Momentum(self.graph, case.schedule)

    def _compiled(self, case: Case) -> TrainingGraph:
        graph = TrainingGraph(self.module, positives_counter(case))
        add_optimizers(graph, case.optimizer, case.schedule, shares(case, self.trained))
        scaler = make_scaler(case)
        if scaler is not None:
            graph.set_grad_scaler(scaler)
        # Compile now, without running it, so that the first step is like every other.
        size = case.batch_size_per_device
        images, labels = np.zeros((size, *INPUT_SHAPE), np.uint8), np.zeros(size, np.int64)
        of_labels = [(labels, BY_ROWS)] if self._samples is None else _spread_as(self._samples.example())
        graph._compile(*self._inputs(images, of_labels))  # noqa: SLF001 - a call also steps
        return graph

    def start_window(self) -> None:
        """Wait for everything in the engine's queue."""
        synchronize()

    def step(self, batch: Batch, iteration: int) -> PendingStep:
        """Queue forward pass, backward pass and update."""
        return self.run(batch, iteration)[0]

    def run(self, batch: Batch, iteration: int) -> Tuple[PendingStep, Tensor]:
        """Queue a step; also return this rank's embeddings, float32 [B, E]."""
        if iteration != self._iterations:  # the compiled schedule counts on its own
            raise ValueError(f"iteration {iteration} after {self._iterations} iterations")
        self._iterations += 1
        with self.phases(DATA):
            images, labels = batch
            inputs = self._inputs(images, self._of_labels(labels))
        with self.phases(GRAPH):
            self._momentum.follow(iteration)
            loss, embeddings, *positives = self.graph(*inputs)
        # The loss is ready after the forward pass. The graph holds the parameters until its last update: this
        # copy of a small one comes after that, and before the next step, which may be queued before anyone
        # waits.
        token = own_part(self.trained["head.embedding_bn.bias"]).to(copy=True)
        return PendingStep(loss, token, positives, self._fewest_sampled), own_part(embeddings)

    def graph_names(self) -> Dict[str, str]:
        """The graph's names of the parameters, by the table's."""
        names = {id(array): "module." + name for name, array in self.module.named_parameters()}
        return {name: names[id(array)] for name, array in self.trained.items()}

    def _of_labels(self, labels: np.ndarray) -> List[Tuple[np.ndarray, Any]]:
        """What the head takes of the labels, and how it is spread."""
        if self._samples is None:
            return [(labels, BY_ROWS)]
        with self.phases(COMMUNICATION):
            everyones = self._ranks.everyones(labels)
        return _spread_as(self._samples.sample(everyones))

    def _inputs(self, images: np.ndarray, of_labels: List[Tuple[np.ndarray, Any]]) -> List[Tensor]:
        return [self._ranks.spread(own, sbp) for own, sbp in ((images, BY_ROWS), *of_labels)]


def _spread_as(sample: Tuple[np.ndarray, np.ndarray]) -> List[Tuple[np.ndarray, Any]]:
    """A sample's columns, of which each rank knows those of its own classes, and its index."""
    columns, index = sample
    return [(columns, AS_SUM), (index, BY_ROWS)]


def make_trainer(case: Case, rank: Rank, _batches: Sequence[Batch] = ()) -> OneFlowTrainer:
    """A trainer with the initial weights of the case's seed."""
    return OneFlowTrainer(case, rank, initial_arrays(case, held_classes(case, rank)))


if __name__ == "__main__":
    run_and_leave(
        partial(program.run, make_trainer, facts, matmul_flops_per_second, open_reader=OneFlowReader)
    )
