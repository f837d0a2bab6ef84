"""One policy of float32 and one order of GPUs for all ranks, whatever the user's environment holds."""

from __future__ import annotations

from typing import Any

import pytest
from cases import case_of, launch_of

from dlperf.adapters import jax, mxnet, oneflow, pytorch
from dlperf.adapters.base import Adapter
from dlperf.plan.case import Case, Topology
from dlperf.running.launch import inherited, replaced

ADAPTERS = (jax.ADAPTER, mxnet.ADAPTER, oneflow.ADAPTER, pytorch.ADAPTER)
EVERY_ADAPTER = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
TF32 = {"tf32": True}


def case(
    adapter: Adapter, *, device: str = "cuda", changes: dict[str, Any] | None = None, **given: Any
) -> Case:
    options = adapter.options.model_validate(given).model_dump(mode="json", exclude_none=True)
    return case_of(adapter, device=device, options=options, **(changes or {}))


def variables(adapter: Adapter, case: Case) -> dict[str, str]:
    (command,) = adapter.rank_commands(launch_of(case))
    return command.env


@EVERY_ADAPTER
def test_on_cuda_nvidias_libraries_use_tf32_only_where_the_case_says_so(adapter: Adapter) -> None:
    assert "0" == variables(adapter, case(adapter))["NVIDIA_TF32_OVERRIDE"]
    assert "1" == variables(adapter, case(adapter, **TF32))["NVIDIA_TF32_OVERRIDE"]
    assert "NVIDIA_TF32_OVERRIDE" not in variables(adapter, case(adapter, device="cpu", **TF32))


@EVERY_ADAPTER
def test_the_users_variable_does_not_reach_a_rank_and_is_named(adapter: Adapter) -> None:
    mine = {"NVIDIA_TF32_OVERRIDE": "1", "HOME": "/home/user"}
    plain = case(adapter)

    assert "0" == {**inherited(mine), **variables(adapter, plain)}["NVIDIA_TF32_OVERRIDE"]
    assert {"NVIDIA_TF32_OVERRIDE": "0"} == replaced(mine, [plain])
    assert {} == replaced(mine, [case(adapter, **TF32), case(adapter, device="cpu")])
    assert {} == replaced({"HOME": "/home/user"}, [plain])


@EVERY_ADAPTER
def test_ranks_count_gpus_as_nvidia_smi_does(adapter: Adapter) -> None:
    """CUDA's own order is by speed: with unlike GPUs rank 0 would train on another than the plan says."""
    mine = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST", "CUDA_VISIBLE_DEVICES": "3,1"}
    seen = {**inherited(mine), **variables(adapter, case(adapter))}
    assert ("PCI_BUS_ID", "3,1") == (seen["CUDA_DEVICE_ORDER"], seen["CUDA_VISIBLE_DEVICES"])


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (mxnet.ADAPTER, {"MXNET_CUDA_TENSOR_OP_MATH_ALLOW_CONVERSION": "0", "MXNET_FC_TRUE_FP16": "0"}),
        (
            oneflow.ADAPTER,
            {
                "ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION": "0",
                "ONEFLOW_MATMUL_ALLOW_HALF_PRECISION_ACCUMULATION": "0",
                "ONEFLOW_CONV_ALLOW_HALF_PRECISION_ACCUMULATION": "0",
            },
        ),
        (pytorch.ADAPTER, {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0"}),
    ],
    ids=["mxnet", "oneflow", "pytorch"],
)
def test_an_engines_own_variables_change_no_arithmetic(adapter: Adapter, expected: dict[str, str]) -> None:
    """A user's shell could set them: a rank inherits all variables of its engine."""
    assert expected.items() <= variables(adapter, case(adapter)).items()


def test_a_case_of_mxnet_without_the_option_keeps_its_name() -> None:
    """Options that are not given are not in a case, so that older results still match."""
    assert {} == case(mxnet.ADAPTER).options


HALF = {"precision": "fp16", "topology": Topology(nodes=1, devices_per_node=2)}
NARROW = {**HALF, "gradient_dtype": "float16"}


@pytest.mark.parametrize(
    ("adapter", "changes", "options", "reason"),
    [
        (jax.ADAPTER, HALF, {}, None),
        (jax.ADAPTER, NARROW, {}, None),
        (pytorch.ADAPTER, HALF, {}, None),
        (pytorch.ADAPTER, NARROW, {}, None),
        (mxnet.ADAPTER, HALF, {}, None),
        (mxnet.ADAPTER, NARROW, {}, None),
        (mxnet.ADAPTER, HALF, {"processes": "one"}, "some in float16, some in float32; leave out the option"),
        (mxnet.ADAPTER, NARROW, {"processes": "one"}, "some in float16, some in float32"),
        (mxnet.ADAPTER, {"precision": "fp16"}, {"processes": "one"}, None),
        (oneflow.ADAPTER, HALF, {}, None),
        (oneflow.ADAPTER, NARROW, {}, "in float32; leave out gradient_dtype: float16"),
    ],
)
def test_who_can_add_up_gradients_in_which_dtype(
    adapter: Adapter, changes: dict[str, Any], options: dict[str, Any], reason: str | None
) -> None:
    found = adapter.unsupported(case(adapter, changes=changes, **options))
    assert (found is None) if reason is None else reason in (found or "")
