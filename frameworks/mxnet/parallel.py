"""The devices of a case and what they exchange: MXNet's copies in one process, Horovod between processes.

Nothing here waits: everything is queued in MXNet's engine, which runs it when its inputs are ready. A list
holds one array for each of the process's own devices, in their order.
"""

import ctypes
import itertools
import time
from contextlib import nullcontext
from typing import Any, ContextManager, Dict, List, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import Parameter

from frameworks.common.case import Case, Rank
from frameworks.common.phases import COMMUNICATION, Phases
from frameworks.mxnet.rendezvous import meet
from frameworks.mxnet.settings import devices

# The least size of an all-reduce of gradients: there are a few, so that the first ones travel while the
# backward pass computes the others.
_GROUP_BYTES = 16 * 2**20
# Exchanges that hold nothing up, and so do not count as waiting: they travel while the rank computes.
_OVERLAPPED = frozenset({"loss"})

NDArrays = List[mx.nd.NDArray]


def join(case: Case, rank: Rank) -> "Ranks":
    """The case's devices; several processes meet, as `meet` does."""
    own, phases = devices(case, rank), Phases(mx.nd.waitall)
    if rank.world_size == rank.devices:
        return Ranks(own, phases, rank.world_size)
    return HorovodRanks(own, phases, rank.world_size, meet(rank), case.gradient_dtype)


class Ranks:
    """The devices of one process, nearly always a single one."""

    # How gluon.Trainer adds the gradients of several devices.
    kvstore = "device"

    def __init__(self, own: List[mx.Context], phases: Phases, world_size: int) -> None:
        self.devices, self.phases, self._world_size = own, phases, world_size

    def exchanges(self) -> "Optional[ExchangeTimes]":
        """Of what was queued since the last call; None: devices of one process, whose work overlaps."""
        return None

    def _exchange(self) -> ContextManager[None]:
        """Counts as communication, if there is more than one device."""
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
        """The sum over all devices, on each; the given arrays may change."""
        if len(arrays) == 1:
            return arrays
        with self._exchange():
            return self._everywhere(mx.nd.add_n(*(array.as_in_context(self.devices[0]) for array in arrays)))

    def maximum(self, arrays: NDArrays, name: str) -> NDArrays:  # noqa: ARG002 - Horovod's
        """The maximum over all devices, on each; the given arrays may change."""
        if len(arrays) == 1:
            return arrays
        with self._exchange():
            stacked = mx.nd.stack(*(array.as_in_context(self.devices[0]) for array in arrays))
            return self._everywhere(mx.nd.max(stacked, axis=0))

    def _everywhere(self, array: mx.nd.NDArray) -> NDArrays:
        return [array.as_in_context(device) for device in self.devices]

    def total_gradients(self, optimizer: mx.gluon.Trainer, parameters: List[Parameter]) -> None:  # noqa: ARG002
        """Add up the gradients of replicated parameters, in place."""
        with self._exchange():
            optimizer.allreduce_grads()


class HorovodRanks(Ranks):
    """One device of this process, the others in other processes.

    A name stands for the same exchange in all processes and in each step.
    """

    kvstore = None

    def __init__(
        self, own: List[mx.Context], phases: Phases, world_size: int, horovod: Any, gradient_dtype: str
    ) -> None:
        super().__init__(own, phases, world_size)
        self._hvd, self._gradient_dtype = horovod, gradient_dtype
        # An exchange uses the same array in each step, so that the engine keeps the steps in order and
        # Horovod never has two exchanges of one name.
        self._kept: Dict[str, mx.nd.NDArray] = {}
        self._times = ExchangeTimes()

    def exchanges(self) -> "Optional[ExchangeTimes]":
        """See `Ranks`."""
        times, self._times = self._times, ExchangeTimes()
        return times

    def gather_labels(self, labels: np.ndarray) -> mx.nd.NDArray:
        """See `Ranks`."""
        own = mx.nd.array(labels, ctx=mx.cpu(0), dtype="int32")
        whole = self._kept_array("labels", (self._world_size * len(labels),), own)
        self._gather(own, whole, "labels")
        return whole

    def gather(self, arrays: NDArrays, out: NDArrays, name: str) -> None:
        """See `Ranks`."""
        self._times.stamp(arrays[0])
        self._gather(arrays[0], out[0], name)
        self._times.stamp(out[0])

    def _gather(self, own: mx.nd.NDArray, whole: mx.nd.NDArray, name: str) -> None:
        # Horovod's own all-gather blocks the host until it knows the size of the result.
        size, rank = len(own), self._hvd.rank()
        with self._exchange():
            whole[:] = 0
            whole[rank * size : (rank + 1) * size] = own
            self._hvd.allreduce_(whole, op=self._hvd.Sum, name=name)

    def total(self, arrays: NDArrays, name: str) -> NDArrays:
        """See `Ranks`."""
        return self._reduce(arrays[0], name, self._hvd.Sum)

    def maximum(self, arrays: NDArrays, name: str) -> NDArrays:
        """See `Ranks`."""
        return self._reduce(arrays[0], name, self._hvd.Max)

    def _reduce(self, array: mx.nd.NDArray, name: str, operation: int) -> NDArrays:
        kept = self._kept_array(name, array.shape, array)
        with self._exchange():
            array.copyto(kept)
            if name not in _OVERLAPPED:
                self._times.stamp(kept)
            self._hvd.allreduce_(kept, op=operation, name=name)
            if name not in _OVERLAPPED:
                self._times.stamp(kept)
        return [kept]

    def _kept_array(
        self, name: str, shape: Any, like: mx.nd.NDArray, dtype: Optional[str] = None
    ) -> mx.nd.NDArray:
        if name not in self._kept:
            self._kept[name] = mx.nd.empty(shape, ctx=like.context, dtype=dtype or like.dtype)
        return self._kept[name]

    def total_gradients(self, optimizer: mx.gluon.Trainer, parameters: List[Parameter]) -> None:  # noqa: ARG002
        """See `Ranks`; in a few groups, first those of the last layers, which are ready first."""
        gradients = [parameter.grad() for parameter in parameters]
        with self._exchange():
            sent = [self._to_send(gradient, number) for number, gradient in enumerate(gradients)]
            self._times.stamp(sent[0])  # of the first layer: the last one that the backward pass computes
            for number, group in enumerate(_gradient_groups(sent)):
                self._hvd.grouped_allreduce_(group, op=self._hvd.Sum, name=f"gradients{number}")
            self._times.stamp(sent[0])
            for gradient, total in zip(gradients, sent):
                if total is not gradient:
                    mx.nd.cast(total, dtype=gradient.dtype, out=gradient)

    def _to_send(self, gradient: mx.nd.NDArray, number: int) -> mx.nd.NDArray:
        """The gradient in the case's `gradient_dtype`: itself, or a copy."""
        dtype = self._gradient_dtype
        if np.dtype(gradient.dtype) == dtype:
            return gradient
        kept = self._kept_array(f"gradient{number}", gradient.shape, gradient, dtype)
        return mx.nd.cast(gradient, dtype=dtype, out=kept)


class _Context(ctypes.Structure):
    """MXNet's C API: a device."""

    _fields_ = (("device_type", ctypes.c_int), ("device_id", ctypes.c_int))


_HOST = _Context(1, 0)
_stamped: Dict[int, float] = {}
_numbers = itertools.count(1)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
def _look_at_the_clock(_run_context: Any, number: int) -> None:
    """A thread of the engine calls it."""
    _stamped[number] = time.perf_counter()


class ExchangeTimes:
    """When MXNet's engine came to the start and to the end of each exchange of a step."""

    def __init__(self) -> None:
        self._numbers: List[int] = []

    def stamp(self, array: mx.nd.NDArray) -> None:
        """Queue a look at the clock: after what was queued to write `array`, before what will use it.

        The first one is a start, the second an end, and so on.
        """
        number = next(_numbers)
        self._numbers.append(number)
        written = (ctypes.c_void_p * 1)(array.handle)
        # As Horovod queues its own operations. `written` is not changed, but keeps the order.
        arguments = (_look_at_the_clock, ctypes.c_void_p(number), None, ctypes.byref(_HOST))
        mx.base.check_call(
            mx.base._LIB.MXEnginePushSyncND(*arguments, None, 0, written, 1, None, 0, None)  # noqa: SLF001
        )

    def seconds(self) -> Optional[float]:
        """In all exchanges, once they are over; None if one is not."""
        times = [_stamped.pop(number, None) for number in self._numbers]
        if None in times:
            return None
        return sum(end - start for start, end in zip(times[::2], times[1::2]))


def _gradient_groups(gradients: NDArrays) -> List[NDArrays]:
    """Groups of gradients, last ones first; all but the last have `_GROUP_BYTES` or more."""
    groups: List[NDArrays] = []
    size = 0
    for gradient in reversed(gradients):
        if not groups or size >= _GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(gradient)
        size += gradient.size * np.dtype(gradient.dtype).itemsize
    return groups
