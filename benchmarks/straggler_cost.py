"""What it costs that each rank times its exchanges: `python benchmarks/straggler_cost.py [--blocks N]`.

Two processes of PyTorch, then of MXNet, train the quickstart's network together on a CPU core each. Blocks of
ten steps with and without the measuring follow each other in the order A B B A. Prints the CPU time that a
step takes a rank, which other work on the machine changes little, and the median over the pairs of blocks of
their ratio, with a 95 % interval. Takes about 2 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 10
SWEEP = """
experiment: quickstart
frameworks: [pytorch==2.13.0, mxnet==1.9.1]
topology: [1n2g]
parallelism: [data]
batch_size_per_device: 4
device: cpu
threads_per_device: 1
oversubscribe: true
"""


def main() -> None:
    """Start the ranks of each framework, and print what rank 0 measured."""
    from dlperf.adapters.registry import load_adapters  # noqa: PLC0415 - an engine has no dlperf
    from dlperf.cli.options import plan_here  # noqa: PLC0415
    from dlperf.plan.load import load_sweep  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=40, help="Blocks of ten steps of each kind.")
    blocks = parser.parse_args().blocks
    adapters = load_adapters()
    with tempfile.TemporaryDirectory() as temporary:
        sweep = Path(temporary) / "two.yaml"
        sweep.write_text(SWEEP, encoding="utf-8")
        for planned in plan_here(
            load_sweep(str(sweep), adapters=adapters), adapters=adapters, cluster=None
        ).cases:
            text = _ranks(planned.case, adapters[planned.case.framework], Path(temporary), blocks)
            seconds = {name: np.array(each) for name, each in json.loads(text.splitlines()[-1]).items()}
            ratios = seconds["measured"] / seconds["plain"]
            drawn = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
            low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975]) - 1
            milliseconds = 1000 * np.median(seconds["plain"])
            print(
                f"{planned.case.framework}: {milliseconds:.1f} ms of CPU time per step; "
                f"measuring costs {np.median(ratios) - 1:.2%} ({low:.2%} to {high:.2%})"
            )


def _ranks(case: Any, adapter: Any, folder: Path, blocks: int) -> str:
    """What rank 0 prints."""
    from dlperf.environments import ensure  # noqa: PLC0415
    from dlperf.files import shipped_root, write_document  # noqa: PLC0415
    from dlperf.plan.sweep import Limits  # noqa: PLC0415
    from dlperf.running.launch import free_port, launch_files, local_launch  # noqa: PLC0415

    python = ensure(adapter.environment(case.version, "cpu", parallel=True)).python
    node = local_launch(folder, python=python)
    write_document(node.case_file, case)
    (launch,) = launch_files(case, adapter=adapter, node_launches=[node], limits=Limits(), port=free_port())
    command = [str(python), __file__, "--rank", case.framework, str(node.case_file), str(blocks)]
    ranks = [
        subprocess.Popen(
            [*command, *map(str, rank.cpus)],
            env={**os.environ, **rank.env, "PYTHONPATH": str(shipped_root())},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in launch.ranks
    ]
    texts = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        sys.exit(f"{case.framework}: a rank failed")
    return texts[0]


def rank_program(framework: str, case_file: str, blocks: int, cpus: set[int]) -> None:
    """One rank: print the CPU seconds of a step in each block of both kinds."""
    from frameworks.common.case import rank_from_environment, read_case  # noqa: PLC0415
    from frameworks.common.data import repeated_batches  # noqa: PLC0415
    from frameworks.common.program import exit_at_once  # noqa: PLC0415

    os.sched_setaffinity(0, cpus)
    case, rank = read_case(case_file), rank_from_environment()
    batches = repeated_batches(case, rank)
    trainer = import_module(f"frameworks.{framework}.train").make_trainer(case, rank, batches)
    parallel = import_module(f"frameworks.{framework}.parallel")
    owner, plain = {
        "pytorch": (
            getattr(parallel, "Ranks", None),
            {
                "_now": lambda _: 0.0,
                "_exchange": lambda ranks: ranks._phases("communication"),  # noqa: SLF001
                "gradients_arrived": lambda _: None,
            },
        ),
        "mxnet": (
            getattr(parallel, "ExchangeTimes", None),
            {"stamp": lambda *_: None, "seconds": lambda _: None},
        ),
    }[framework]
    kinds = {"measured": {name: getattr(owner, name) for name in plain}, "plain": plain}
    feed, iterations = itertools.cycle(batches), itertools.count()

    def block(kind: str) -> float:
        for name, function in kinds[kind].items():
            setattr(owner, name, function)
        trainer.start_window()
        start, running = time.process_time(), None
        for last in range(STEPS, -1, -1):
            started = trainer.step(next(feed), next(iterations)) if last else None
            if running is not None:
                running.wait()
                running.exchange_seconds()
            running = started
        return (time.process_time() - start) / STEPS

    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for kind in kinds:
        block(kind)  # to warm up
    for number in range(blocks):
        for kind in kinds if number % 2 else reversed(kinds):
            seconds[kind].append(block(kind))
    print(json.dumps(seconds))
    exit_at_once(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank_program(*sys.argv[2:4], int(sys.argv[4]), set(map(int, sys.argv[5:])))
    else:
        main()
