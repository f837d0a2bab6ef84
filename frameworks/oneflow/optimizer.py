"""SGD with momentum as every framework here computes it, made from what OneFlow's graph has.

The definition, coupled:   v = momentum v - rate (gradient + decay w);  w = w + v
           and decoupled: v = momentum v - rate gradient;               w = w + v - rate decay w

OneFlow 0.8 computes just that. OneFlow 0.9 keeps the rate outside, against its own documentation:
u = momentum u + gradient; w = w - rate u. The two agree as long as the rate stays; where it changes from a to
b, u must be multiplied by a / b (`Momentum.follow`).
"""

from typing import Any, Dict, List, NamedTuple, Sequence

import oneflow as flow
from oneflow import Tensor
from oneflow.nn.parameter import Parameter

from frameworks.common.case import Optimizer, Schedule
from frameworks.common.schedule import learning_rate

# More iterations than any training has: ConstantLR ends after this many.
_NEVER = 2**31


class DecoupledSGD(flow.optim.SGD):
    """SGD with the weight decay beside the momentum, which OneFlow's kernel has, its class not."""

    def __init__(self, groups: "List[Dict[str, Any]]") -> None:
        """Take the groups of `flow.optim.SGD`; their `weight_decay` is what is decoupled."""
        self._decays = [group["weight_decay"] for group in groups]
        super().__init__([{**group, "weight_decay": 0.0} for group in groups])

    def _generate_conf_for_graph(self, train_conf: Any, vars_conf: Any) -> Any:
        made = super()._generate_conf_for_graph(train_conf, vars_conf)
        for conf, decay in zip(made, self._decays):
            conf.weight_decay_conf.weight_decay_rate = decay
        return made


class Share(NamedTuple):
    """Some of the parameters: `weight_decay` is theirs; of `sparse` ones only rows with a gradient change."""

    parameters: List[Parameter]
    weight_decay: float
    sparse: bool = False


def add_optimizers(
    graph: flow.nn.Graph, optimizer: Optimizer, schedule: Schedule, shares: Sequence[Share]
) -> None:
    """Give a graph the case's optimizer and schedule, for every share that has parameters."""
    for share in shares:
        if share.parameters:
            made = make_optimizer(optimizer, schedule, share)
            graph.add_optimizer(made, lr_sch=make_schedule(made, schedule), is_sparse=share.sparse)


def make_optimizer(optimizer: Optimizer, schedule: Schedule, share: Share) -> flow.optim.SGD:
    """The case's optimizer for a share. Its rate is the schedule's highest.

    The weight decay of a sparse share must stand beside the momentum, or in the loss: OneFlow adds that which
    goes through the momentum to the whole gradient, which then is no longer one of rows.
    """
    decoupled = optimizer.decay == "decoupled"
    group = {
        "params": share.parameters,
        "lr": max(rates(schedule)),
        "momentum": optimizer.momentum,
        "weight_decay": 0.0 if share.sparse and not decoupled else share.weight_decay,
    }
    return DecoupledSGD([group]) if decoupled else flow.optim.SGD([group])


def rates(schedule: Schedule) -> List[float]:
    """The rates of the schedule in their order; each but the first starts at one of `schedule.steps`."""
    return [learning_rate(schedule, iteration) for iteration in (0, *schedule.steps)]


def make_schedule(optimizer: flow.optim.SGD, schedule: Schedule) -> "flow.optim.lr_scheduler.LRScheduler":
    """The schedule in a form that nn.Graph compiles: constants, one after the other.

    OneFlow's MultiStepLR knows one factor for all steps, and LambdaLR works in eager mode alone. ConstantLR
    refuses factors above 1, so they are taken of the highest rate.
    """
    scheduler = flow.optim.lr_scheduler
    highest = max(rates(schedule))
    constants = [scheduler.ConstantLR(optimizer, rate / highest, _NEVER) for rate in rates(schedule)]
    return scheduler.SequentialLR(optimizer, constants, list(schedule.steps))


class Momentum:
    """The momentum buffers of a compiled graph, kept in step with the learning rate."""

    def __init__(self, graph: flow.nn.Graph, schedule: Schedule) -> None:
        self._graph, self._schedule = graph, schedule
        self._rate = learning_rate(schedule, 0)

    def follow(self, iteration: int) -> None:
        """Called before each iteration: scale the buffers where the rate changes, which drains the device."""
        rate = learning_rate(self._schedule, iteration)
        if rate != self._rate and rate_outside_buffer():
            for buffer in momentum_buffers(self._graph).values():
                buffer.mul_(self._rate / rate)
            # The graph does not know of eager writes to them: a step that is queued now would not wait.
            flow._oneflow_internal.eager.Sync()  # noqa: SLF001 - OneFlow's own synchronize is for CUDA alone
        self._rate = rate


def momentum_buffers(graph: flow.nn.Graph) -> Dict[str, Tensor]:
    """The buffers of a compiled graph by OneFlow's name of the parameter; none without momentum.

    Waits for the steps that were queued.
    """
    ending = "-momentum"
    state = graph.state_dict()
    return {name[: -len(ending)]: state[name] for name in state if name.endswith(ending)}


def rate_outside_buffer() -> bool:
    """Whether this OneFlow multiplies by the learning rate after the momentum; seen in 0.8.0 and 0.9.0."""
    major, minor = flow.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (0, 9)
