"""What OneFlow does with 16-bit networks, as far as a CPU shows it; a row of JSON.

It has no 16-bit kernels there. So float64 stands in for the network's dtype where the question is in which of
two dtypes gradients are added up over ranks.
"""

import json
import sys
from typing import Any

import oneflow as flow
from oneflow import nn

from frameworks.common.case import read_case
from frameworks.oneflow.precision import loss_scale, norm_dtype
from frameworks.oneflow.settings import device


class Layer(nn.Module):
    """As the layers of the network: float32 weights, cast to the dtype that is computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4, bias=False)

    def forward(self, x: flow.Tensor) -> flow.Tensor:
        weight = self.linear.weight.to(flow.float64)
        return flow._C.matmul(x.to(flow.float64), weight, transpose_b=True).to(flow.float32).sum()


class Graph(nn.Graph):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        self.add_optimizer(flow.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9))

    def build(self, x: flow.Tensor) -> flow.Tensor:
        loss = self.layer(x)
        loss.backward()
        return loss


def gradient_path() -> dict[str, Any]:
    """The operator that gives the optimizer the gradient, its dtype, and how it is spread around it."""
    ranks = flow.placement("cpu", [0, 1])
    graph = Graph(Layer().to_global(placement=ranks, sbp=flow.sbp.broadcast))
    graph._compile(flow.ones(2, 8).to_global(placement=ranks, sbp=flow.sbp.split(0)))
    job = graph._compiled_graph_proto
    operators = {op.name: op.user_conf for op in job.net.op}
    update = next(op for op in job.net.op if "model_diff" in op.user_conf.input)
    source = operators[update.user_conf.input["model_diff"].s[0].partition("/")[0]]
    spreads = job.job_parallel_view_conf.op_name2nd_sbp_signature_conf
    name = update.user_conf.input["model_diff"].s[0].partition("/")[0]

    def spread(operator: str, blob: str) -> str:
        return spreads[operator].bn_in_op2nd_sbp[blob].sbp_parallel[0].WhichOneof("parallel_type")

    return {
        "operator": source.op_type_name,
        "dtype": source.attr["dtype"].at_data_type,
        "before": spread(name, "in_0"),
        "after": spread(name, "out_0"),
        "optimizer": spread(update.name, "model_diff_0"),
    }


case = read_case(sys.argv[1])
found = {"norm_dtype": str(norm_dtype(case, device(case))), "loss_scale": loss_scale(case)}
if flow.env.get_world_size() > 1:
    found.update(gradient_path())
print(json.dumps(found))  # noqa: T201
