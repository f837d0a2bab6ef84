"""Mixed precision: the network in 16 bits, the parameters, the margin softmax and the updates in float32.

OneFlow's own pass (`enable_amp`) takes every matrix product of a graph into 16 bits, the classifier's too,
and can spare none; the definition has the logits in float32. So the layers cast for themselves, to the dtype
of their input. Statistics, gamma and beta of BatchNorm stay float32, as in OneFlow's pass.
"""

import oneflow as flow

from frameworks.common.case import Case


def network_dtype(case: Case) -> flow.dtype:
    """What the network computes in."""
    return getattr(flow, {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[case.precision])


# Of Partial FC in fp16: gradients near 1e-3 come to 1, in the middle of what float16 holds.
_FIXED_SCALE = 1024.0


def scale_loss(graph: flow.nn.Graph, case: Case) -> None:
    """Let OneFlow scale the loss of an fp16 case; bfloat16 reaches as far down as float32.

    It finds the scale itself, and skips the steps whose gradients are no numbers. With Partial FC the scale
    is fixed: to look for such gradients OneFlow makes that of the classifier a whole one, without a word, and
    its momentum then moves every row.
    """
    if case.precision == "fp16":
        fixed = case.parallelism == "partial_fc"
        graph.set_grad_scaler(flow.amp.StaticGradScaler(_FIXED_SCALE) if fixed else flow.amp.GradScaler())
