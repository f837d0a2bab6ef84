"""SGD as the case defines it, with what OneFlow's graph has.

The definition, coupled:   v = momentum v - rate (gradient + decay w);  w = w + v
           and decoupled: v = momentum v - rate gradient;               w = w + v - rate decay w

OneFlow 0.8 computes exactly that. OneFlow 0.9, contrary to its documentation, keeps the rate outside: u =
momentum u + gradient; w = w - rate u. The two agree while the rate is constant; when it changes from a to b,
u must be multiplied by a / b (`Momentum.follow`).
"""

from typing import Any, Dict, List, NamedTuple, Sequence

import oneflow as flow
from oneflow import Tensor
from oneflow.nn.parameter import Parameter

from frameworks.common.case import Case, Optimizer, Schedule
from frameworks.common.initial import CLASSIFIER
from frameworks.common.networks import layers_of, parameters
from frameworks.common.schedule import learning_rate
from frameworks.oneflow.settings import synchronize

# ConstantLR ends after this many iterations, more than any training has.
_NEVER = 2**31


class DecoupledSGD(flow.optim.SGD):
    """SGD with weight decay outside the momentum, which OneFlow's kernel has and its class lacks."""

    def __init__(self, groups: "List[Dict[str, Any]]") -> None:
        """Take the groups of `flow.optim.SGD`; their `weight_decay` is decoupled."""
        self._decays = [group["weight_decay"] for group in groups]
        super().__init__([{**group, "weight_decay": 0.0} for group in groups])

    def _generate_conf_for_graph(self, train_conf: Any, vars_conf: Any) -> Any:
        made = super()._generate_conf_for_graph(train_conf, vars_conf)
        for conf, decay in zip(made, self._decays):
            conf.weight_decay_conf.weight_decay_rate = decay
        return made


class Share(NamedTuple):
    """Some of the parameters with their weight decay; of `sparse` ones only rows with a gradient change."""

    parameters: List[Parameter]
    weight_decay: float
    sparse: bool = False


def shares(case: Case, trained: Dict[str, Parameter]) -> List[Share]:
    """The arrays `trained`, given by the table's names, by how the optimizer treats them."""
    kinds = {spec.name: spec.kind for spec in parameters(layers_of(case))}
    spared = [name for name, kind in kinds.items() if kind in case.optimizer.no_decay]
    sampled = [CLASSIFIER] if case.parallelism == "partial_fc" else []
    decayed = [name for name in trained if name not in (*spared, *sampled)]
    decay = case.optimizer.weight_decay
    return [
        Share([trained[name] for name in decayed], decay),
        Share([trained[name] for name in spared], 0.0),
        Share([trained[name] for name in sampled], decay, sparse=True),
    ]


def add_optimizers(
    graph: flow.nn.Graph, optimizer: Optimizer, schedule: Schedule, of_shares: Sequence[Share]
) -> None:
    """Give a graph the case's optimizer and schedule, for every share that has parameters."""
    for share in of_shares:
        if share.parameters:
            sgd = make_optimizer(optimizer, schedule, share)
            graph.add_optimizer(sgd, lr_sch=_compiled_schedule(sgd, schedule), is_sparse=share.sparse)


def make_optimizer(optimizer: Optimizer, schedule: Schedule, share: Share) -> flow.optim.SGD:
    """The case's optimizer for a share; its rate is the schedule's highest.

    The weight decay of a sparse share must be outside the momentum, or in the loss: OneFlow adds decay that
    goes through the momentum to the gradient of all rows, which is then no longer sparse.
    """
    decoupled = optimizer.decay == "decoupled"
    group = {
        "params": share.parameters,
        "lr": max(_rates(schedule)),
        "momentum": optimizer.momentum,
        "weight_decay": 0.0 if share.sparse and not decoupled else share.weight_decay,
    }
    return DecoupledSGD([group]) if decoupled else flow.optim.SGD([group])


def _rates(schedule: Schedule) -> List[float]:
    """The rates of the schedule in their order; each after the first starts at one of `schedule.steps`."""
    return [learning_rate(schedule, iteration) for iteration in (0, *schedule.steps)]


def _compiled_schedule(
    optimizer: flow.optim.SGD, schedule: Schedule
) -> "flow.optim.lr_scheduler.LRScheduler":
    """The schedule in a form that nn.Graph compiles: a sequence of constants.

    OneFlow's MultiStepLR has one factor for all steps, and LambdaLR works only in eager mode. ConstantLR
    refuses factors above 1, so they are relative to the highest rate.
    """
    scheduler = flow.optim.lr_scheduler
    highest = max(_rates(schedule))
    constants = [scheduler.ConstantLR(optimizer, rate / highest, _NEVER) for rate in _rates(schedule)]
    return scheduler.SequentialLR(optimizer, constants, list(schedule.steps))


class Momentum:
    """Rescales the momentum buffers of a compiled graph when the learning rate changes."""

    def __init__(self, graph: flow.nn.Graph, schedule: Schedule) -> None:
        self._graph, self._schedule = graph, schedule
        self._rate = learning_rate(schedule, 0)

    def follow(self, iteration: int) -> None:
        """Call this before each iteration; it drains the device if the rate changes."""
        rate = learning_rate(self._schedule, iteration)
        if rate != self._rate and rate_outside_buffer():
            for buffer in momentum_buffers(self._graph).values():
                buffer.mul_(self._rate / rate)
            # The graph does not see eager writes to them: a step queued now would not wait for them.
            synchronize()
        self._rate = rate


def momentum_buffers(graph: flow.nn.Graph) -> Dict[str, Tensor]:
    """The buffers of a compiled graph by OneFlow's name of the parameter; empty without momentum.

    It waits for the queued steps.
    """
    ending = "-momentum"
    state = graph.state_dict()
    return {name[: -len(ending)]: state[name] for name in state if name.endswith(ending)}


def rate_outside_buffer() -> bool:
    """Whether this OneFlow multiplies by the rate after the momentum; tested with 0.8.0 and 0.9.0."""
    major, minor = flow.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (0, 9)
