"""The ranks of a case and what they exchange: a mesh of a device per rank, with gloo on CPU and NCCL on CUDA.

The compiled step is one program that every rank runs on its own shards (`shard_map`), so BatchNorm sees the
rank's own images, and nothing is exchanged but what the program says.
"""

from typing import Any, Callable, Sequence, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax._src import distributed  # JAX has no other way to wait for all processes as long as one likes
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frameworks.common.case import RENDEZVOUS_SECONDS, Case, Rank

_AXIS = "ranks"
# How an array is spread: the same on every rank; by rows, each rank its own.
REPLICATED, BY_ROWS = PartitionSpec(), PartitionSpec(_AXIS)

Tree = TypeVar("Tree")


def join(case: Case, rank: Rank) -> "Ranks":
    """The case's ranks, which met before (`rendezvous.py`); ValueError if they are not as many as it says."""
    if rank.devices != 1:
        raise ValueError(f"a process of the JAX program drives one device, not {rank.devices}")
    met = jax.process_index(), jax.process_count()
    if met != (rank.rank, case.world_size):
        raise ValueError(
            f"JAX is rank {met[0]} of {met[1]}, this process rank {rank.rank} of {case.world_size}"
        )
    return Ranks(case.world_size)


class Ranks:
    """All ranks together; a single one gets back what it gave.

    What takes an Array is called inside the function that `over` is given.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._mesh = Mesh(np.array(jax.devices()), (_AXIS,))
        self._everyones = jax.jit(lambda own: own, out_shardings=NamedSharding(self._mesh, REPLICATED))

    def over(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """`function` of each rank's shards, as a function of global arrays."""
        # Without `check_vma` a gradient is the rank's own until the program adds it up, in its own dtype.
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def gathered(self, own: Array) -> Array:
        """[N, ...] of every rank -> [R N, ...] in the order of the ranks; gradients are summed over them."""
        return own if self.size == 1 else lax.all_gather(own, _AXIS, tiled=True)

    def sum(self, values: Tree) -> Tree:
        """Sum over the ranks."""
        return values if self.size == 1 else lax.psum(values, _AXIS)

    def mean(self, values: Tree) -> Tree:
        """Average over the ranks."""
        return values if self.size == 1 else lax.pmean(values, _AXIS)

    def maximum(self, values: Tree) -> Tree:
        """Maximum over the ranks."""
        return values if self.size == 1 else lax.pmax(values, _AXIS)

    def own_of(self, values: Sequence[int]) -> Array:
        """The rank's own of one number per rank, int32."""
        return jnp.asarray(values, jnp.int32)[self._own_number()]

    def own_key(self, key: Array) -> Array:
        """A random key of the rank's own."""
        return jax.random.fold_in(key, self._own_number())

    def _own_number(self) -> Any:
        return 0 if self.size == 1 else lax.axis_index(_AXIS)

    def spread(self, own: np.ndarray, spec: PartitionSpec) -> Array:
        """The global array on the ranks' devices of which this rank has `own`; a CPU may use its memory."""
        return jax.make_array_from_process_local_data(NamedSharding(self._mesh, spec), own)

    def everyones(self, own: np.ndarray) -> np.ndarray:
        """[N, ...] of every rank -> [R N, ...] in the order of the ranks, both on the host."""
        return own if self.size == 1 else own_part(self._everyones(self.spread(own, BY_ROWS)))

    def wait_for_all(self, point: str) -> None:
        """Wait up to RENDEZVOUS_SECONDS for all ranks, which compile at different speeds; connect them."""
        if self.size > 1:
            distributed.global_state.client.wait_at_barrier(point, 1000 * RENDEZVOUS_SECONDS)
            # Gloo's connections, which ranks wait 30 seconds for, are made by what is exchanged first.
            self.everyones(np.zeros(1, np.int32))


def own_part(array: Array) -> np.ndarray:
    """This rank's part of a global array, on the host."""
    return np.asarray(array.addressable_data(0))
