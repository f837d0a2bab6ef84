"""Mixed precision: the network in 16 bits, the parameters, the margin softmax and the updates in float32.

OneFlow's own pass (`enable_amp`) takes every matrix product of a graph into 16 bits, the classifier's too,
and can spare none; the definition has the logits in float32. So the layers cast for themselves, to the dtype
of their input. Statistics, gamma and beta of BatchNorm stay float32, as in OneFlow's pass.
"""

import oneflow as flow

from frameworks.common.case import Case


def network_dtype(case: Case) -> flow.dtype:
    """What the network computes in; KeyError for a precision that this OneFlow lacks."""
    return {"fp32": flow.float32, "fp16": flow.float16, "bf16": flow.bfloat16}[case.precision]


def scale_loss(graph: flow.nn.Graph, case: Case) -> None:
    """Let OneFlow scale the loss of an fp16 case, and skip the steps whose gradients are no numbers.

    float16 ends at 6e-8; bfloat16 reaches as far down as float32.
    """
    if case.precision == "fp16":
        graph.set_grad_scaler(flow.amp.GradScaler())
