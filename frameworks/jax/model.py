"""A case's step, which XLA compiles as a whole: from uint8 images to updated parameters, over all ranks."""

from typing import Any, Dict, NamedTuple, Optional, Tuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from frameworks.common.case import Case
from frameworks.common.initial import CLASSIFIER
from frameworks.common.networks import layers_of
from frameworks.jax.head_sharded import SampledMarginSoftmax, make_head
from frameworks.jax.network import Arrays, Given, Layer, build_network
from frameworks.jax.optimizer import make_optimizer
from frameworks.jax.parallel import BY_ROWS, REPLICATED, Ranks
from frameworks.jax.precision import Scaling, gradient_dtype, make_scaler, network_dtype
from frameworks.jax.settings import sums_depthwise


class Backbone:
    """Images uint8 [B, 3, 112, 112] -> embeddings float32 [B, E]; the network computes in `dtype`."""

    def __init__(self, network: Layer, dtype: Any) -> None:
        self._network, self._dtype = network, dtype

    def __call__(self, images: Array, given: Given) -> Array:
        """Scale the images on the device."""
        scaled = (images.transpose(0, 2, 3, 1).astype(jnp.float32) - 127.5) / 128
        return self._network(scaled.astype(self._dtype), given).astype(jnp.float32)


class State(NamedTuple):
    """What a step changes; arrays by the table's names.

    A split classifier is BY_ROWS, and so are the running statistics, of which each rank has its own.
    """

    parameters: Arrays
    statistics: Arrays
    momenta: Arrays
    scaling: Scaling


class Inputs(NamedTuple):
    """Images uint8 [B, 3, 112, 112] and labels int32 [B] of a rank; the rate, and the iteration's number.

    `index` has the rows that Partial FC trains, if they are drawn on the host.
    """

    images: Array
    labels: Array
    rate: Array
    iteration: Array
    index: Optional[Array] = None


class Passes(NamedTuple):
    """What a step computed: the global batch's loss, the rank's embeddings [B, E], gradients by name.

    `index` has the rows that Partial FC trained. If the device drew them, a `surplus` above 0 says that a
    rank left out classes that the batch names.
    """

    loss: Any
    surplus: Any = None
    embeddings: Any = None
    gradients: Any = None
    index: Any = None


class TrainingModule:
    """Forward pass, backward pass and update of one rank: state and inputs -> state and what it computed."""

    def __init__(self, case: Case, ranks: Ranks) -> None:
        network = build_network(layers_of(case), sums_depthwise=sums_depthwise(case))
        self._case, self._ranks = case, ranks
        self._backbone = Backbone(network, network_dtype(case))
        self.head = make_head(case, ranks)
        self._optimizer, self._scaler = make_optimizer(case), make_scaler(case)

    @property
    def samples(self) -> bool:
        """Whether a step trains a sample of the classes."""
        return isinstance(self.head, SampledMarginSoftmax)

    def __call__(self, state: State, inputs: Inputs) -> Tuple[State, Passes]:
        """One step, inside `Ranks.over`."""
        key = jax.random.fold_in(jax.random.key(self._case.seed), inputs.iteration)
        index, surplus = inputs.index, None
        if self.samples and index is None:
            index, surplus = self.head.drawn(inputs.labels, key)
        parameters, momenta = (self._taken(arrays, index) for arrays in (state.parameters, state.momenta))
        passes, moved = self._passes(parameters, state, inputs, key, index)
        after = self._optimizer.update(parameters, momenta, passes.gradients, inputs.rate)
        changed, scaling = (after.parameters, after.momenta), state.scaling
        if self._scaler.enabled:
            overflowed = self._ranks.maximum(self._scaler.overflowed(passes.gradients))
            scaling = self._scaler.after(scaling, overflowed)
            changed = jax.tree.map(
                lambda new, old: jnp.where(overflowed, old, new), changed, (parameters, momenta)
            )
        trained = self._put_back(state.parameters, index, changed[0])
        made = State(trained, moved, self._put_back(state.momenta, index, changed[1]), scaling)
        return made, passes._replace(surplus=surplus, index=index)

    def _passes(
        self, parameters: Arrays, state: State, inputs: Inputs, key: Array, index: Optional[Array]
    ) -> Tuple[Passes, Arrays]:
        """Both passes; also the running statistics after them. Gradients are those of the loss itself."""
        of_labels = (inputs.labels,) if index is None else (inputs.labels, index)

        def scaled_loss(parameters: Arrays) -> Tuple[Array, Tuple[Array, Array, Arrays]]:
            given = Given(parameters, state.statistics, self._ranks.own_key(key), dict(state.statistics))
            embeddings = self._backbone(inputs.images, given)
            loss = self.head(embeddings, parameters[CLASSIFIER], *of_labels)
            scaled = loss * state.scaling.scale if self._scaler.enabled else loss
            return scaled, (loss, embeddings, given.moved)

        gradients, (loss, embeddings, moved) = jax.grad(scaled_loss, has_aux=True)(parameters)
        gradients = self._scaler.unscaled(self._reduced(gradients), state.scaling)
        if self._case.parallelism == "data":
            loss = self._ranks.mean(loss)
        return Passes(loss, embeddings=embeddings, gradients=gradients), moved

    def _reduced(self, gradients: Arrays) -> Arrays:
        """Gradients over all ranks; of a split classifier they are the rank's own."""
        if self._ranks.size == 1:
            return gradients
        dtype = gradient_dtype(self._case)
        replicated = {name: gradients[name].astype(dtype) for name in gradients if not self._split(name)}
        reduce = self._ranks.mean if self._case.parallelism == "data" else self._ranks.sum
        reduced = {name: total.astype(jnp.float32) for name, total in reduce(replicated).items()}
        return {**gradients, **reduced}

    def _split(self, name: str) -> bool:
        return name == CLASSIFIER and self._case.parallelism != "data"

    def _taken(self, arrays: Arrays, index: Optional[Array]) -> Arrays:
        if index is None or CLASSIFIER not in arrays:
            return arrays
        return {**arrays, CLASSIFIER: self.head.taken(arrays[CLASSIFIER], index)}

    def _put_back(self, tables: Arrays, index: Optional[Array], arrays: Arrays) -> Arrays:
        if index is None or CLASSIFIER not in arrays:
            return arrays
        return {**arrays, CLASSIFIER: self.head.put_back(tables[CLASSIFIER], index, arrays[CLASSIFIER])}

    def specs(self, state: State) -> State:
        """How the arrays of a state are spread."""
        return State(
            {name: BY_ROWS if self._split(name) else REPLICATED for name in state.parameters},
            dict.fromkeys(state.statistics, BY_ROWS),
            {name: BY_ROWS if self._split(name) else REPLICATED for name in state.momenta},
            Scaling(REPLICATED, REPLICATED),
        )


def make_module(
    case: Case, ranks: Ranks, arrays: Dict[str, np.ndarray], *, first_scale: float
) -> Tuple[TrainingModule, State]:
    """The case's step on its ranks, and its first state, on the devices.

    `arrays` holds every parameter and buffer by the table's name, of a split classifier the rank's own rows.
    """
    module = TrainingModule(case, ranks)
    # Copies: on a CPU an array may use numpy's memory, and training would change the caller's.
    own = {name: array.copy() for name, array in arrays.items()}
    if case.parallelism != "data":
        own[CLASSIFIER] = np.zeros((module.head.held_rows, case.embedding_size), np.float32)
        own[CLASSIFIER][: len(arrays[CLASSIFIER])] = arrays[CLASSIFIER]
    statistics = {name: own.pop(name) for name in arrays if ".running_" in name}
    momenta = {name: np.zeros_like(array) for name, array in own.items()} if case.optimizer.momentum else {}
    scaling = Scaling(np.array(first_scale, np.float32), np.array(0, np.int32))
    state = State(own, statistics, momenta, scaling)
    return module, jax.tree.map(ranks.spread, state, module.specs(state))
