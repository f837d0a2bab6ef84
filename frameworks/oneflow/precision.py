"""What fp32, fp16 and bf16 mean: what the network computes in, and how the loss is scaled.

Parameters, margin softmax and updates stay float32. OneFlow's own pass (`enable_amp`) runs every matrix
product of a graph in 16 bits and can exempt none, not even the classifier's, whose logits the definition has
in float32. So the layers themselves cast their weights to the dtype of their input. Statistics, gamma and
beta of BatchNorm stay float32, as in OneFlow's pass.
"""

from typing import Optional

import oneflow as flow

from frameworks.common.case import Case

# For Partial FC in fp16: it brings gradients of about 1e-3 to 1, the middle of float16's range.
_FIXED_SCALE = 1024.0


def network_dtype(case: Case) -> flow.dtype:
    """The dtype of the network."""
    return getattr(flow, {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[case.precision])


def norm_dtype(case: Case, device: flow.device) -> flow.dtype:
    """The dtype of the maps that BatchNorm is given: the network's, if OneFlow takes it, else float32.

    OneFlow 0.9.0 refuses 16-bit maps on CPU ("InferDataType Failed"), whatever its statistics have, before it
    looks for a kernel. What it does on CUDA was never seen, so it is tried.
    """
    dtype = network_dtype(case)
    if dtype == flow.float32:
        return dtype
    maps = flow.ones(2, 1, 1, 1, device=device).to(dtype)
    mean, variance, gamma, beta = (flow.ones(1, device=device) for _ in range(4))
    options = {"axis": 1, "epsilon": 1e-5, "momentum": 0.1, "is_training": True}
    try:
        flow._C.normalization(maps, mean, variance, gamma, beta, **options)  # noqa: SLF001
    except RuntimeError:
        return flow.float32
    return dtype


def loss_scale(case: Case) -> str:
    """What the loss is scaled by, for the log."""
    if case.precision != "fp16":
        return "none"
    return f"static {_FIXED_SCALE:g}" if case.parallelism == "partial_fc" else "dynamic"


def make_scaler(case: Case) -> "Optional[flow.amp.GradScaler | flow.amp.StaticGradScaler]":
    """Scaling for fp16. None in fp32, and in bf16, which has the range of float32.

    OneFlow's dynamic scaler finds the scale and skips steps with infinite gradients or NaNs. With Partial FC
    the scale is fixed: to look for such gradients OneFlow silently turns the classifier's gradient of sampled
    rows into one of all rows, and its momentum then moves every row.
    """
    if case.precision != "fp16":
        return None
    fixed = case.parallelism == "partial_fc"
    return flow.amp.StaticGradScaler(_FIXED_SCALE) if fixed else flow.amp.GradScaler()
