"""CASE_FILE: whether the wait for a step waits for the update of each of some arrays, and what it costs.

An operator that waits for an event writes to an array just before the step's update. Arrays: `names`, of
those that were tried; `waited`, whether the step was then incomplete until the event; `trained`, how many
arrays the trainer has; `inputs`, of all `concat` of an update, and `checks`, the calls of `multi_all_finite`
in it: on a GPU each of both is a kernel.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import mxnet as mx
import numpy as np

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data import Batch, batches
from frameworks.mxnet.train import MXNetTrainer, make_trainer

RELEASED = threading.Event()
# How long a wait that ends too early may take; one that is right lasts until the event in any case.
TOO_EARLY_SECONDS = 1.0


class _Held(mx.operator.CustomOp):
    def forward(self, **arrays: Any) -> None:
        RELEASED.wait()
        self.assign(arrays["out_data"][0], "write", arrays["in_data"][0])

    def backward(self, **_arrays: Any) -> None:
        raise AssertionError("never called")


@mx.operator.register("held")
class _HeldProperties(mx.operator.CustomOpProp):
    def create_operator(self, *_given: Any) -> _Held:
        return _Held()


def waits_for(trainer: MXNetTrainer, name: str, batch: Batch, iteration: int) -> bool:
    """Whether a step is incomplete as long as something before the update still writes to the array."""
    loss, _ = trainer.forward_backward(batch)
    array = trainer.trained[name].data()
    mx.nd.waitall()
    RELEASED.clear()
    mx.nd.Custom(array.copy(), op_type="held", out=array)
    pending = trainer.update(loss, iteration)
    waiting = threading.Thread(target=pending.wait)
    waiting.start()
    waiting.join(TOO_EARLY_SECONDS)
    waited = waiting.is_alive()
    RELEASED.set()
    waiting.join()
    return waited


def cost(trainer: MXNetTrainer, batch: Batch, iteration: int) -> tuple[int, int]:
    """Inputs of the `concat` and calls of `multi_all_finite` in an update."""
    loss, _ = trainer.forward_backward(batch)
    inputs, checks = 0, 0
    concat, check = mx.nd.concat, mx.nd.multi_all_finite

    def counted_concat(*arrays: Any, **settings: Any) -> Any:
        nonlocal inputs
        inputs += len(arrays)
        return concat(*arrays, **settings)

    def counted_check(*arrays: Any, **settings: Any) -> Any:
        nonlocal checks
        checks += 1
        return check(*arrays, **settings)

    mx.nd.concat, mx.nd.multi_all_finite = counted_concat, counted_check
    try:
        trainer.update(loss, iteration).wait()
    finally:
        mx.nd.concat, mx.nd.multi_all_finite = concat, check
    return inputs, checks


def main() -> None:
    case = read_case(sys.argv[1])
    mx.engine.set_bulk_size(0)  # else the engine runs neighbouring operators as one, which waits for more
    trainer = make_trainer(case, rank_from_environment())
    (batch,) = batches(case, 0, 1)
    names = list(trainer.trained)
    # The first and the last, and both sides of what one operator can take.
    tried = [names[0], names[199], names[200], names[-1]]
    waited = [waits_for(trainer, name, batch, iteration) for iteration, name in enumerate(tried)]
    inputs, checks = cost(trainer, batch, len(tried))
    np.savez(
        sys.argv[2],
        names=np.array(tried),
        waited=np.array(waited),
        trained=len(names),
        inputs=inputs,
        checks=checks,
    )


main()
