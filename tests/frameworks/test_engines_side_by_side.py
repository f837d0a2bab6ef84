"""The packages of the engines have the same modules, with the same names in the same order."""

from __future__ import annotations

import ast

import pytest

from dlperf.files import shipped_folder

TITLES = {"pytorch": "PyTorch", "mxnet": "MXNet", "oneflow": "OneFlow", "jax": "JAX"}
MODULES = (
    "__init__",
    "align",
    "data",
    "head",
    "head_sharded",
    "model",
    "network",
    "optimizer",
    "parallel",
    "precision",
    "rendezvous",
    "settings",
    "train",
)
# What only some engines have: (module, engine, names, reason).
OWN = (
    ("settings", "pytorch", ("device",), "a process of PyTorch, OneFlow or JAX drives one device"),
    ("settings", "oneflow", ("device",), "a process of PyTorch, OneFlow or JAX drives one device"),
    ("settings", "jax", ("device",), "a process of PyTorch, OneFlow or JAX drives one device"),
    ("settings", "mxnet", ("devices",), "a process of MXNet may drive all devices of a node"),
    (
        "settings",
        "pytorch",
        ("uses_channels_last", "uses_compile", "uses_cuda_graphs", "configure"),
        "options of PyTorch, set by calls; MXNet's and OneFlow's are set by environment variables",
    ),
    ("settings", "jax", ("configure",), "what JAX reads of the environment when it looks for devices"),
    ("settings", "jax", ("sums_depthwise",), "XLA has no fast depthwise convolution on a CPU"),
    ("settings", "pytorch", ("allocator_peaks",), "MXNet and OneFlow do not tell their allocators' use"),
    ("settings", "jax", ("allocator_peaks",), "MXNet and OneFlow do not tell their allocators' use"),
    ("settings", "mxnet", ("prelu_form",), "an option of MXNet, whose own operator is wrong"),
    ("settings", "oneflow", ("synchronize",), "OneFlow has no public call for it on CPU"),
    ("precision", "pytorch", ("mixed_precision", "set_fp32_precision"), "autocast and TF32 are torch's"),
    ("precision", "pytorch", ("gradient_dtype",), "a hook takes it; Horovod's arrays have it"),
    ("precision", "jax", ("gradient_dtype", "set_fp32_precision"), "calls take both"),
    ("precision", "jax", ("Scaling", "LossScaler"), "JAX has no scaler, and its state must be an argument"),
    ("network", "jax", ("Given",), "layers of JAX hold no arrays"),
    ("precision", "oneflow", ("norm_dtype",), "OneFlow's BatchNorm may refuse 16-bit maps"),
    ("network", "oneflow", ("set_norm_dtype",), "OneFlow's BatchNorm may refuse 16-bit maps"),
    ("precision", "pytorch", ("AgreedGradScaler",), "torch's scaler lets ranks disagree"),
    ("precision", "mxnet", ("LossScale", "DynamicLossScale"), "MXNet's scaler works only with its Trainer"),
    ("head_sharded", "pytorch", ("Sample", "DeviceSampler", "SampledRows"), "torch has no sampler"),
    (
        "head_sharded",
        "oneflow",
        (
            "DeviceSampledMarginSoftmax",
            "HostSamples",
            "samples_on_host",
            "positives_counter",
            "most_positives",
        ),
        "OneFlow's own sampler, which works only on CUDA and does not report dropped positives",
    ),
    ("model", "pytorch", ("ready", "compile_now"), "DistributedDataParallel and torch.compile"),
    ("head_sharded", "jax", ("HostSamples",), "the step is compiled, and the host draws on CPU"),
    ("head", "jax", ("normalize",), "JAX has none"),
    ("model", "oneflow", ("TrainingGraph",), "OneFlow compiles a whole step"),
    ("model", "jax", ("State", "Inputs", "Passes"), "what a step of JAX takes and gives"),
    ("optimizer", "pytorch", ("CaseSGD",), "torch keeps the rate outside the momentum"),
    ("optimizer", "jax", ("Updated", "CaseSGD"), "JAX has no optimizer"),
    ("optimizer", "mxnet", ("DecoupledSGD",), "MXNet's SGD has only coupled decay"),
    ("optimizer", "oneflow", ("DecoupledSGD",), "OneFlow's SGD has only coupled decay"),
    (
        "optimizer",
        "oneflow",
        ("Share", "shares", "add_optimizers", "Momentum", "momentum_buffers", "rate_outside_buffer"),
        "a graph takes one optimizer per treatment and compiles the schedule",
    ),
    ("rendezvous", "mxnet", ("RendezvousError", "horovod_variables"), "Horovod is set up by variables"),
    ("rendezvous", "oneflow", ("RendezvousError",), "torch.distributed raises errors of its own"),
    ("rendezvous", "jax", ("RendezvousError", "run_and_leave"), "JAX ends with SIGABRT and a stack"),
    ("rendezvous", "pytorch", ("run_and_leave",), "gloo's threads abort a rank that shuts down"),
    ("rendezvous", "oneflow", ("run_and_leave",), "OneFlow's shutdown waits for the other ranks"),
    ("parallel", "mxnet", ("HorovodRanks",), "one process for all devices, or one for each"),
    ("parallel", "mxnet", ("ExchangeTimes",), "only MXNet's engine knows when it comes to an exchange"),
    ("parallel", "oneflow", ("own_part",), "OneFlow's tensors are global, as JAX's arrays"),
    ("parallel", "jax", ("own_part",), "OneFlow's tensors are global, as JAX's arrays"),
    ("train", "pytorch", ("Feeder",), "only torch lets the program choose the stream of a copy"),
    ("align", "pytorch", ("main",), "PyTorch also computes the float64 reference"),
)


def public_names(engine: str, module: str) -> list[str]:
    path = shipped_folder("frameworks") / engine / f"{module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = [node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    return [name for name in defined if not name.startswith("_")]


def own_names(engine: str, module: str) -> list[str]:
    return [name for of, by, names, _ in OWN if (of, by) == (module, engine) for name in names]


@pytest.mark.parametrize("engine", TITLES)
def test_an_engine_has_every_module_and_no_other(engine: str) -> None:
    folder = shipped_folder("frameworks") / engine
    assert list(MODULES) == sorted(path.stem for path in folder.glob("*.py"))


@pytest.mark.parametrize("module", MODULES[1:])
def test_the_engines_have_the_same_names_in_the_same_order(module: str) -> None:
    common = {
        engine: [
            name.replace(title, "Engine")
            for name in public_names(engine, module)
            if name not in own_names(engine, module)
        ]
        for engine, title in TITLES.items()
    }
    assert common["pytorch"]
    assert all(common["pytorch"] == names for names in common.values())


@pytest.mark.parametrize(("module", "engine", "names", "_reason"), OWN)
def test_an_exception_still_exists(module: str, engine: str, names: tuple[str, ...], _reason: str) -> None:
    assert set(names) <= set(public_names(engine, module))
