"""Train a case with JAX: one compiled step, whose state is donated, from uint8 images to the parameters."""

import time
from functools import partial
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import jax
import numpy as np
from jax import Array

from frameworks.common import program
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import initial_arrays
from frameworks.common.loop import FinishedStep, HostTimed
from frameworks.common.margin import held_classes
from frameworks.common.networks import INPUT_SHAPE
from frameworks.common.phases import COMMUNICATION, DATA, GRAPH, Phases
from frameworks.common.sampling import sample_sizes, too_many_positives
from frameworks.common.schedule import learning_rate
from frameworks.jax.data import JAXReader
from frameworks.jax.head_sharded import HostSamples
from frameworks.jax.model import Inputs, Passes, State, make_module
from frameworks.jax.network import named_arrays
from frameworks.jax.parallel import BY_ROWS, REPLICATED, join
from frameworks.jax.precision import FIRST_SCALE
from frameworks.jax.rendezvous import run_and_leave
from frameworks.jax.settings import allocator_peaks, facts, matmul_flops_per_second

# What the training program needs of a step; the rest is not computed for its own sake.
MEASURED = ("loss", "surplus")


class PendingStep(HostTimed):
    """A step in the device's queue; its loss is copied to the host after it."""

    def __init__(self, loss: Array, surplus: Optional[Array], sampled: int) -> None:
        self._loss, self._surplus, self._sampled = loss, surplus, sampled
        for array in (loss, surplus):
            if array is not None:
                array.copy_to_host_async()

    def wait(self) -> float:
        """Block until the step is done; return its loss.

        Raises:
            ValueError: the batch named more classes of a rank than it samples.
        """
        loss = float(self._loss)
        if self._surplus is not None and int(self._surplus) > 0:
            raise ValueError(too_many_positives(self._sampled + int(self._surplus), self._sampled))
        return loss


class JAXTrainer:
    """`Trainer` of frameworks/common/loop.py: this rank's part of it."""

    def __init__(
        self,
        case: Case,
        rank: Rank,
        arrays: Dict[str, np.ndarray],
        *,
        first_scale: float = FIRST_SCALE,
        kept: Sequence[str] = MEASURED,
    ) -> None:
        """Build and compile the case's step; `arrays` holds every parameter and buffer by the table's name.

        The classifier in it has only the rows of the rank's own classes. In fp16 the loss is scaled by
        `first_scale` until that changes. `kept` names the parts of `Passes` that a step returns.
        """
        self._case, self._ranks, self._fewest_sampled = case, join(case, rank), min(sample_sizes(case))
        self.module, self.state = make_module(case, self._ranks, arrays, first_scale=first_scale)
        on_host = self.module.samples and case.device == "cpu"
        self._samples = HostSamples(case, rank) if on_host else None
        self.phases = Phases(self._synchronize)
        self._step = self._compiled(kept)
        self._ranks.wait_for_all("compiled")
        self.start_window()

    @property
    def arrays(self) -> Dict[str, Array]:
        """Every parameter and running statistic by the table's name."""
        return named_arrays(self.state.parameters, self.state.statistics)

    def _compiled(self, kept: Sequence[str]) -> Any:
        """The step, compiled now, so that the first one is like every other."""
        size = self._case.batch_size_per_device
        index = None if self._samples is None else np.zeros(self._samples.size, np.int32)
        inputs = self._inputs(np.zeros((size, *INPUT_SHAPE), np.uint8), np.zeros(size, np.int32), index, 0)
        spread = Inputs(BY_ROWS, BY_ROWS, REPLICATED, REPLICATED, None if index is None else BY_ROWS)
        of_state = self.module.specs(self.state)
        specs = Passes(REPLICATED, REPLICATED, BY_ROWS, of_state.parameters, BY_ROWS)
        if not self.module.samples:
            specs = specs._replace(index=None)
        if not self.module.samples or self._samples is not None:
            specs = specs._replace(surplus=None)
        nothing = {name: None for name in Passes._fields if name not in kept}

        def step(state: State, inputs: Inputs) -> Tuple[State, Passes]:
            after, passes = self.module(state, inputs)
            return after, passes._replace(**nothing)

        whole = self._ranks.over(step, (of_state, spread), (of_state, specs._replace(**nothing)))
        return jax.jit(whole, donate_argnums=0).lower(self.state, inputs).compile()

    def _synchronize(self) -> None:
        jax.block_until_ready(self.state)

    def start_window(self) -> None:
        """Wait for everything in the device's queue."""
        self._synchronize()
        self._window_start = time.perf_counter()

    def step(self, batch: Batch, iteration: int) -> Union[PendingStep, FinishedStep]:
        """Forward pass, backward pass and update: queued on CUDA, done at return on CPU."""
        return self.run(batch, iteration)[0]

    def run(self, batch: Batch, iteration: int) -> Tuple[Union[PendingStep, FinishedStep], Passes]:
        """A step; also what of it is kept."""
        images, labels = batch
        index = None
        if self._samples is not None:
            with self.phases(COMMUNICATION):
                everyones = self._ranks.everyones(labels.astype(np.int32))
            index = self._samples.sample(everyones)
        with self.phases(DATA):
            inputs = self._inputs(images, labels, index, iteration)
        with self.phases(GRAPH):
            self.state, passes = self._step(self.state, inputs)
        if self._case.device == "cpu":
            return FinishedStep(float(passes.loss), self._window_start), passes
        return PendingStep(passes.loss, passes.surplus, self._fewest_sampled), passes

    def _inputs(
        self, images: np.ndarray, labels: np.ndarray, index: Optional[np.ndarray], iteration: int
    ) -> Inputs:
        """Copy a batch to the device; on a CPU it is not copied."""
        rate = learning_rate(self._case.schedule, iteration)
        return Inputs(
            self._ranks.spread(images, BY_ROWS),
            self._ranks.spread(labels.astype(np.int32), BY_ROWS),
            self._ranks.spread(np.array(rate, np.float32), REPLICATED),
            self._ranks.spread(np.array(iteration, np.int32), REPLICATED),
            None if index is None else self._ranks.spread(index, BY_ROWS),
        )


def make_trainer(case: Case, rank: Rank, _batches: Sequence[Batch] = ()) -> JAXTrainer:
    """A trainer with the initial weights of the case's seed."""
    return JAXTrainer(case, rank, initial_arrays(case, held_classes(case, rank)))


if __name__ == "__main__":
    own = {"allocator_peaks": allocator_peaks, "open_reader": JAXReader}
    run_and_leave(partial(program.run, make_trainer, facts, matmul_flops_per_second, **own))
