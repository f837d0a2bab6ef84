"""How the devices of a case exchange arrays: in one process by MXNet's copies, between processes by Horovod.

Nothing here waits: all is queued in MXNet's engine, which runs it when the arrays are there. A list holds one
array of each of the process's own devices, in their order.
"""

from contextlib import nullcontext
from typing import Any, ContextManager, Dict, List

import mxnet as mx
import numpy as np
from mxnet.gluon import Parameter

from frameworks.common.case import Case, Rank
from frameworks.common.phases import COMMUNICATION, Phases

# Gradients go in all-reduces of so many bytes at least: in a few, so that the first ones travel while the
# backward pass makes the others.
_GROUP_BYTES = 16 * 2**20

NDArrays = List[mx.nd.NDArray]


def contexts(case: Case, rank: Rank) -> List[mx.Context]:
    """The devices that this process drives."""
    if case.device == "cpu":
        return [mx.cpu(number) for number in range(rank.devices)]
    return [mx.gpu(rank.local_rank + number) for number in range(rank.devices)]


def make_group(case: Case, rank: Rank) -> "Devices":
    """The case's devices; with several processes, joined by Horovod when this returns.

    Raises:
        RendezvousError: the processes did not find each other.
    """
    devices = contexts(case, rank)
    phases = Phases(mx.nd.waitall)
    if rank.world_size == rank.devices:
        return Devices(devices, phases, rank.world_size)
    from frameworks.mxnet.rendezvous import join  # noqa: PLC0415 - Horovod is there with several processes alone

    return Processes(devices, phases, rank.world_size, join(rank))


class Devices:
    """The devices of one process, nearly always a single one."""

    # What gluon.Trainer adds the gradients of several devices with.
    kvstore = "device"

    def __init__(self, devices: List[mx.Context], phases: Phases, world_size: int) -> None:
        self.devices, self.phases, self._world_size = devices, phases, world_size

    def _exchange(self) -> ContextManager[None]:
        """Counts as communication, where there are others to talk to."""
        return self.phases(COMMUNICATION) if self._world_size > 1 else nullcontext()

    def gather_labels(self, labels: np.ndarray) -> mx.nd.NDArray:
        """Labels of the process's devices, int [D B] -> of the global batch, int32 [R B], in host memory."""
        return mx.nd.array(labels, ctx=mx.cpu(0), dtype="int32")

    def gather(self, arrays: NDArrays, out: NDArrays, name: str) -> None:  # noqa: ARG002 - Horovod's
        """Write the rows of all devices in their order, [R B, E], into each of `out`; `arrays` are [B, E]."""
        with self._exchange():
            whole = mx.nd.concat(*(array.as_in_context(self.devices[0]) for array in arrays), dim=0)
            for array in out:
                whole.copyto(array)

    def total(self, arrays: NDArrays, name: str) -> NDArrays:  # noqa: ARG002 - Horovod's
        """The sum over all devices on each; what was given may have changed."""
        if len(arrays) == 1:
            return arrays
        with self._exchange():
            return self._everywhere(mx.nd.add_n(*(array.as_in_context(self.devices[0]) for array in arrays)))

    def maximum(self, arrays: NDArrays, name: str) -> NDArrays:  # noqa: ARG002 - Horovod's
        """The largest over all devices on each; what was given may have changed."""
        if len(arrays) == 1:
            return arrays
        with self._exchange():
            stacked = mx.nd.stack(*(array.as_in_context(self.devices[0]) for array in arrays))
            return self._everywhere(mx.nd.max(stacked, axis=0))

    def _everywhere(self, array: mx.nd.NDArray) -> NDArrays:
        return [array.as_in_context(device) for device in self.devices]

    def total_gradients(self, optimizer: mx.gluon.Trainer, parameters: List[Parameter]) -> None:  # noqa: ARG002
        """Add the gradients of what every device holds, in place."""
        with self._exchange():
            optimizer.allreduce_grads()


class Processes(Devices):
    """One device of a process, the others in other processes. Names are the same in all, and in each step."""

    kvstore = None

    def __init__(self, devices: List[mx.Context], phases: Phases, world_size: int, horovod: Any) -> None:
        super().__init__(devices, phases, world_size)
        self._hvd = horovod
        # A step's exchange goes through the same array as the last one's, so that the engine keeps them in
        # order and Horovod never has two of one name.
        self._kept: Dict[str, mx.nd.NDArray] = {}

    def gather_labels(self, labels: np.ndarray) -> mx.nd.NDArray:
        """See `Devices`."""
        own = mx.nd.array(labels, ctx=mx.cpu(0), dtype="int32")
        whole = self._kept_array("labels", (self._world_size * len(labels),), own)
        self._gather(own, whole, "labels")
        return whole

    def gather(self, arrays: NDArrays, out: NDArrays, name: str) -> None:
        """See `Devices`."""
        self._gather(arrays[0], out[0], name)

    def _gather(self, own: mx.nd.NDArray, whole: mx.nd.NDArray, name: str) -> None:
        # Horovod's own all-gather waits on the host for the result, to learn its size.
        size, rank = len(own), self._hvd.rank()
        with self._exchange():
            whole[:] = 0
            whole[rank * size : (rank + 1) * size] = own
            self._hvd.allreduce_(whole, op=self._hvd.Sum, name=name)

    def total(self, arrays: NDArrays, name: str) -> NDArrays:
        """See `Devices`."""
        return self._reduce(arrays[0], name, self._hvd.Sum)

    def maximum(self, arrays: NDArrays, name: str) -> NDArrays:
        """See `Devices`."""
        return self._reduce(arrays[0], name, self._hvd.Max)

    def _reduce(self, array: mx.nd.NDArray, name: str, operation: int) -> NDArrays:
        kept = self._kept_array(name, array.shape, array)
        with self._exchange():
            array.copyto(kept)
            self._hvd.allreduce_(kept, op=operation, name=name)
        return [kept]

    def _kept_array(self, name: str, shape: Any, like: mx.nd.NDArray) -> mx.nd.NDArray:
        if name not in self._kept:
            self._kept[name] = mx.nd.empty(shape, ctx=like.context, dtype=like.dtype)
        return self._kept[name]

    def total_gradients(self, optimizer: mx.gluon.Trainer, parameters: List[Parameter]) -> None:  # noqa: ARG002
        """See `Devices`; in a few groups, those of the last layers, which are ready first, at the front."""
        groups = gradient_groups([parameter.grad() for parameter in parameters])
        with self._exchange():
            for number, group in enumerate(groups):
                self._hvd.grouped_allreduce_(group, op=self._hvd.Sum, name=f"gradients{number}")


def gradient_groups(gradients: NDArrays) -> List[NDArrays]:
    """Gradients of one type, the last ones first, in groups of at least `_GROUP_BYTES` but for the last."""
    groups: List[NDArrays] = []
    size = 0
    for gradient in reversed(gradients):
        if not groups or size >= _GROUP_BYTES or groups[-1][0].dtype != gradient.dtype:
            groups.append([])
            size = 0
        groups[-1].append(gradient)
        size += gradient.size * np.dtype(gradient.dtype).itemsize
    return groups
