"""What the shipped training programs need from every adapter: their command line and their environment.

The programs are `python -m frameworks.<framework>.train CASE_FILE`; docs/formats.md has the contract.
"""

from __future__ import annotations

from dlperf.adapters.base import Launch, RankPlacement

# Every library that may bring a thread pool of its own; left alone, the engines choose different counts.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def train_argv(launch: Launch, framework: str) -> tuple[str, ...]:
    """The command line of `frameworks/<framework>/train.py`, the same for every rank."""
    return (str(launch.python), "-m", f"frameworks.{framework}.train", str(launch.case_file))


def rank_environment(launch: Launch, placement: RankPlacement) -> dict[str, str]:
    """What the process of one rank gets on top of its node's environment, whatever the framework.

    An adapter adds its engine's own variables. CUDA_VISIBLE_DEVICES is not among these: what the user or a
    batch system shows stays shown, and a program takes the device of its DLPERF_LOCAL_RANK among them.
    """
    threads = str(launch.case.threads_per_device)
    return {
        "PYTHONPATH": str(launch.code),
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",  # packages of the user's home are no part of the framework's environment
        "DLPERF_RANK": str(placement.rank),
        "DLPERF_LOCAL_RANK": str(placement.local_rank),
        "DLPERF_NODE_RANK": str(placement.node_rank),
        "DLPERF_WORLD_SIZE": str(launch.case.topology.world_size),
        "DLPERF_LOCAL_WORLD_SIZE": str(launch.case.topology.devices_per_node),
        "DLPERF_MASTER_ADDRESS": placement.master_address,
        "DLPERF_MASTER_PORT": str(placement.master_port),
        **({"DLPERF_INTERFACE": placement.interface} if placement.interface else {}),
        **dict.fromkeys(_THREAD_VARIABLES, threads),
    }
