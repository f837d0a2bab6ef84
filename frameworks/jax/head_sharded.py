"""The margin softmax over classes that are split over the ranks; `frameworks/common/margin.py` defines it.

XLA compiles one program for all ranks, so every rank holds the same number of rows: where the classes do not
divide, the last row of some ranks stands for none. Embeddings and labels are each rank's own. The gradients
are written out, as in PyTorch's program: of what has the size [R B, classes] only the exponentials are kept,
and the normalised weights are not kept either.
"""

from functools import partial
from typing import Any, NamedTuple, Optional, Tuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from frameworks.common.case import Case, Loss, Rank
from frameworks.common.margin import COSINE_LIMIT, class_range, has_angular_margin
from frameworks.common.sampling import HostSampler, sample_sizes
from frameworks.jax.head import SHORTEST, MarginSoftmax, normalize
from frameworks.jax.parallel import Ranks

_SAMPLES = 0x5A3B1E  # tells the random numbers of samples from those of dropout


class ShardedMarginSoftmax:
    """Loss of a rank's embeddings [B, E] and labels int32 [B]: a scalar, the mean over the global batch.

    The weights [rows, E] are the rank's own. Embeddings get the gradient of that mean, summed over the ranks.
    """

    def __init__(self, case: Case, ranks: Ranks) -> None:
        ranges = [class_range(case.num_classes, case.world_size, rank) for rank in range(case.world_size)]
        self._loss, self._ranks = case.loss, ranks
        self._firsts, self._counts = (tuple(some) for some in zip(*((a, b - a) for a, b in ranges)))
        self.held_rows = max(self._counts)

    def __call__(self, embeddings: Array, weight: Array, labels: Array) -> Array:
        """Compute in the dtype of the weights, float32."""
        own = self._own_labels(labels)
        count = self._ranks.own_of(self._counts)
        inside = (own >= 0) & (own < count)
        places = _Places(jnp.clip(own, 0, len(weight) - 1), inside, count)
        return self._loss_of(embeddings, weight, places)

    def _own_labels(self, labels: Array) -> Array:
        """Labels of the global batch, int32 [R B], counted from the rank's first class."""
        return self._ranks.gathered(labels) - self._ranks.own_of(self._firsts)

    def _loss_of(self, embeddings: Array, weight: Array, places: "_Places") -> Array:
        return _split_softmax(
            self._loss, self._ranks, self._ranks.gathered(normalize(embeddings)), weight, places
        )


class SampledMarginSoftmax(ShardedMarginSoftmax):
    """The same over sampled rows, which are taken from a table of all and put back trained.

    An index, int32 [size], is ascending; behind the rows of a rank that samples fewer than others it points
    past the table.
    """

    def __init__(self, case: Case, ranks: Ranks) -> None:
        super().__init__(case, ranks)
        self._sizes = tuple(sample_sizes(case))
        self.size = max(self._sizes)

    def drawn(self, labels: Array, key: Array) -> Tuple[Array, Array]:
        """Draw an index on the device by the rule of `frameworks/common/sampling.py`.

        Also the surplus, int32: by how many classes a batch names more of some rank than that samples.
        """
        own, size = self._own_labels(labels), self._ranks.own_of(self._sizes)
        count, rows = self._ranks.own_of(self._counts), self.held_rows
        key = self._ranks.own_key(jax.random.fold_in(key, _SAMPLES))
        scores = jax.random.uniform(key, (rows,))
        scores = jnp.where(jnp.arange(rows) < count, scores, -1.0)
        marked = jnp.where((own >= 0) & (own < count), own, rows)
        scores = scores.at[marked].set(2.0, mode="drop")
        best = jax.lax.top_k(scores, self.size)[1]
        index = jnp.sort(jnp.where(jnp.arange(self.size) < size, best, rows))
        positives = (scores == 2.0).sum()  # noqa: PLR2004
        return index, self._ranks.maximum(positives - size)

    def taken(self, table: Array, index: Array) -> Array:
        """The rows of an index, [size, E]."""
        return table.at[index].get(mode="fill", fill_value=0)

    def put_back(self, table: Array, index: Array, rows: Array) -> Array:
        """The table [classes, E] with the rows of an index replaced."""
        return table.at[index].set(rows, mode="drop", unique_indices=True, indices_are_sorted=True)

    def __call__(self, embeddings: Array, weight: Array, labels: Array, index: Array) -> Array:
        """Of the rows `weight` that were taken by `index`."""
        own = self._own_labels(labels)
        column = jnp.clip(jnp.searchsorted(index, own), 0, len(index) - 1)
        places = _Places(column, index[column] == own, self._ranks.own_of(self._sizes))
        return self._loss_of(embeddings, weight, places)


def make_head(case: Case, ranks: Ranks) -> "MarginSoftmax | ShardedMarginSoftmax | SampledMarginSoftmax":
    """The case's classifier."""
    if case.parallelism == "data":
        return MarginSoftmax(case.loss)
    sampled = SampledMarginSoftmax(case, ranks)
    if case.parallelism == "partial_fc" and sampled.size < sampled.held_rows:
        return sampled
    return ShardedMarginSoftmax(case, ranks)


class HostSamples:
    """One rank's indices, drawn on the host with numpy: on a CPU the same in every engine."""

    def __init__(self, case: Case, rank: Rank) -> None:
        self._sampler = HostSampler(case, rank)
        self.size = max(sample_sizes(case))

    def sample(self, labels: np.ndarray) -> np.ndarray:
        """Draw an index for the labels int [R B] of the global batch.

        Raises:
            ValueError: the labels name more classes of this rank than it samples.
        """
        index = self._sampler.sample(labels).astype(np.int32)
        past = np.iinfo(np.int32).max
        return np.concatenate([index, np.full(self.size - len(index), past, np.int32)])


class _Places(NamedTuple):
    """Per image the row of its class, int32 [R B], and whether the rank has it; how many rows are classes."""

    column: Array
    inside: Array
    count: Array


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _split_softmax(loss: Loss, ranks: Ranks, embeddings: Array, weight: Array, places: _Places) -> Array:
    """Unit embeddings [R B, E] and a rank's weights [C, E] -> the loss, the same on every rank."""
    return _forward(loss, ranks, embeddings, weight, places)[0]


def _forward(
    loss: Loss, ranks: Ranks, embeddings: Array, weight: Array, places: _Places
) -> Tuple[Array, Tuple[Any, ...]]:
    shrink = 1 / jnp.maximum(jnp.sqrt(jnp.square(weight).sum(axis=1)), SHORTEST)
    cosines = (embeddings @ weight.T) * shrink
    target, slope = _with_margin(jnp.take_along_axis(cosines, places.column[:, None], axis=1), loss)
    logits = jnp.where(_true_classes(places, len(weight)), target, cosines) * loss.scale
    logits = jnp.where(jnp.arange(len(weight)) < places.count, logits, -jnp.inf)
    maximum = ranks.maximum(logits.max(axis=1, keepdims=True))
    exponentials = jnp.exp(logits - maximum)
    true_logit = jnp.where(places.inside[:, None], target * loss.scale - maximum, 0)
    total, true_logit = ranks.sum((exponentials.sum(axis=1, keepdims=True), true_logit))
    value = (jnp.log(total) - true_logit).mean()
    return value, (embeddings, weight, shrink, places, slope, exponentials, total)


def _backward(
    loss: Loss, _ranks: Ranks, kept: Tuple[Any, ...], gradient: Array
) -> Tuple[Array, Array, Optional[_Places]]:
    embeddings, weight, shrink, places, slope, exponentials, total = kept
    probability = exponentials / total
    true = _true_classes(places, len(weight))
    of_cosine = jnp.where(true, (probability - 1) * slope, probability)
    of_product = of_cosine * (gradient * (loss.scale / len(embeddings))) * shrink
    of_unit = of_product.T @ embeddings
    # Through the division by the length: only the tangential part passes.
    along = (of_unit * weight).sum(axis=1, keepdims=True) * jnp.square(shrink)[:, None]
    return of_product @ weight, of_unit - weight * along, None


_split_softmax.defvjp(_forward, _backward)


def _true_classes(places: _Places, rows: int) -> Array:
    """Where the logits [R B, rows] are those of the true classes."""
    return (jnp.arange(rows) == places.column[:, None]) & places.inside[:, None]


def _with_margin(cosine: Array, loss: Loss) -> Tuple[Array, Array]:
    """cos(m1 theta + m2) - m3 and its slope in the cosine, which is 0 where the cosine is clamped."""
    if not has_angular_margin(loss):
        return cosine - loss.m3, jnp.ones_like(cosine)
    theta = jnp.arccos(jnp.clip(cosine, -COSINE_LIMIT, COSINE_LIMIT))
    angle = theta * loss.m1 + loss.m2
    slope = loss.m1 * jnp.sin(angle) / jnp.sin(theta)
    return jnp.cos(angle) - loss.m3, jnp.where(jnp.abs(cosine) <= COSINE_LIMIT, slope, 0)
