"""What a run over ssh costs: `python benchmarks/ssh_overhead.py [RUNS]`. Needs root, for the lab of tests.

RUNS (default 200) runs of a program that does nothing, one after the other on one node over one connection,
everything included: facts of the node, files there, supervisor, logs and outcome back, result stored. Beside
it, in turns on the same machine: plain `ssh host true`, and the start of a supervisor with the same program
on the node without ssh.
"""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from labs import ROOT, NetLab, cluster_file, make_case, require_lab  # beside this file

from dlperf.adapters.base import EnvironmentSpec, RankCommand
from dlperf.plan.cluster import load_cluster
from dlperf.plan.sweep import Limits
from dlperf.running.cluster import held
from dlperf.running.launch import LaunchFile, RankProcess
from dlperf.running.run import ReadyNode, Runner
from dlperf.running.supervision import Interrupts

if TYPE_CHECKING:
    from labs import Host

    from dlperf.adapters.base import Launch
    from dlperf.plan.case import Case

ROUNDS = 10
SPEC = EnvironmentSpec(
    framework="nothing",
    version=".".join(map(str, sys.version_info[:3])),
    pythons=(),
    requirements=(),
    import_check="import platform; print(platform.python_version())",
)


class Nothing:
    """Starts `true`."""

    name = "nothing"

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        return tuple(RankCommand(argv=("true",), env={}) for _ in launch.placements)


class Silence:
    """Shows no progress."""

    def __getattr__(self, name: str) -> object:
        return lambda *_arguments, **_names: None


def case_of(number: int) -> Case:
    own = {"framework": "nothing", "version": SPEC.version, "threads_per_device": 1}
    return make_case(**own, batch_size_per_device=number)


def timed(command: list[str], **options: object) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    return time.perf_counter() - start


def supervisor_start(host: Host) -> list[str]:
    """A supervisor with `true` on the console of the host: what a run costs there without any ssh."""
    folder = host.path("/root/alone")
    folder.mkdir(exist_ok=True)
    rank = RankProcess(rank=0, argv=("true",), env={}, cpus=(), log="logs/rank0.log")
    launch = LaunchFile(
        case_id="nothing",
        node_rank=0,
        ranks=(rank,),
        time_limit_seconds=None,
        stall_limit_seconds=None,
        lease_seconds=None,
    )
    (folder / "launch.json").write_text(launch.model_dump_json())
    enter = ["nsenter", "-t", str(host.init), "-n", "-m", "-u", "-i", "-p"]
    supervisor = str(ROOT / "frameworks" / "supervisor.py")
    command = shlex.join([sys.executable, "-I", supervisor, "launch.json"])
    return [*enter, "sh", "-c", f"cd /root/alone && exec {command}"]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    require_lab()
    times: dict[str, list[float]] = {"run over ssh": [], "ssh host true": [], "supervisor alone": []}
    with NetLab(1) as lab, tempfile.TemporaryDirectory() as name:
        os.environ["HOME"] = str(lab.home)
        folder, host = Path(name), lab.hosts[0]
        cluster_file(folder / "lab.yaml", lab, 1, folder="/root/work")
        plain = ["ssh", "-F", str(lab.home / ".ssh" / "config"), "node0", "true"]
        alone = supervisor_start(host)
        runner = Runner(
            limits=Limits(),
            interrupts=Interrupts(say=print),
            progress=Silence(),  # type: ignore[arg-type]
        )
        with held(load_cluster("lab.yaml", folder=folder), wait=False, say=print) as (node,):
            ready = ReadyNode(node=node, environment=node.environment(SPEC, python=Path(sys.executable)))
            for round_ in range(ROUNDS):
                for number in range(1, runs // ROUNDS + 1):
                    start = time.perf_counter()
                    runner.run(
                        case_of(number),
                        repeat=1 + round_,
                        folder=folder / str(number) / f"r{1 + round_}",
                        adapter=Nothing(),  # type: ignore[arg-type]
                        nodes=[ready],
                    )
                    times["run over ssh"].append(time.perf_counter() - start)
                times["ssh host true"] += [timed(plain) for _ in range(3)]
                times["supervisor alone"] += [timed(alone) for _ in range(3)]
    print(f"{len(times['run over ssh'])} runs, load {os.getloadavg()[0]:.1f}")
    for what, seconds in times.items():
        middle, least = statistics.median(seconds) * 1000, min(seconds) * 1000
        print(f"{what:18} median {middle:7.1f} ms, least {least:7.1f} ms")
    run, *parts = (statistics.median(seconds) for seconds in times.values())
    print(f"run / (ssh host true + supervisor alone) = {run / sum(parts):.2f}")


if __name__ == "__main__":
    main()
