"""Time and peak memory of a report of many results: `python benchmarks/report.py [RESULTS]`.

Makes RESULTS result files (default: 10 000) in a temporary folder, then runs `dlperf report` on them as a
user does. The figures in the files are invented: only the time and memory of dlperf count. Run it twice: the
first run in a new environment also compiles its packages.
"""

from __future__ import annotations

import io
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dlperf.layout import CASE_NAME, ENVIRONMENT_NAME, LOGS_FOLDER, RESULT_NAME, log_name, run_folder
from dlperf.plan.case import Case, Loss, Measure, Topology, Workload
from dlperf.results.schema import Engine, Node, RunEnvironment, RunFigures, RunResult, Status
from frameworks.common.events import EventLog

FRAMEWORKS = (("mxnet", "1.9.1"), ("oneflow", "0.9.0"), ("pytorch", "2.13.0"))
REPEATS = 5
NODE = Node(host="node-a", cpu="Example CPU", cores=8, memory_bytes=2**34)


def cases() -> Iterator[Case]:
    """An endless grid: experiments x parallelisms x topologies x batches x frameworks."""
    for number in itertools.count():
        for experiment, network, parallelism in itertools.product(
            ("r100_emore", "r100_glint360k", "y1_emore"), ("iresnet100",), ("data", "model")
        ):
            workload = Workload(
                experiment=experiment,
                network=network,
                head="E",
                embedding_size=512,
                dataset="emore",
                loss=Loss(kind="arcface", m2=0.5),
            )
            for (nodes, devices), (framework, version) in itertools.product(
                ((1, 1), (1, 4), (1, 8), (2, 8), (4, 8)), FRAMEWORKS
            ):
                yield Case(
                    framework=framework,
                    version=version,
                    workload=workload,
                    parallelism=parallelism,
                    topology=Topology(nodes=nodes, devices_per_node=devices),
                    device="cuda",
                    batch_size_per_device=8 + number,
                    num_classes=85742,
                    threads_per_device=8,
                    measure=Measure(),
                )


def result(case: Case, repeat: int) -> RunResult:
    rate = 240.0 * case.topology.world_size**0.95 * (1 + repeat / 1000)
    return RunResult(
        dlperf_version="0.1.0",
        case=case,
        repeat=repeat,
        status=Status.OK,
        started_at="2026-01-01T00:00:00Z",
        seconds=60.0,
        nodes=("node-a",),
        figures=RunFigures(
            samples_per_sec=rate,
            accepted_steps=100,
            dropped_steps=20,
            step_seconds_median=case.global_batch_size / rate,
            step_seconds_p95=1.1 * case.global_batch_size / rate,
            loss_first=40.0,
            loss_last=39.0,
            peak_memory_bytes=None,
            peak_anonymous_bytes=2**33,
        ),
        engine=Engine(training_flops_per_sample=72_000_000_000, matmul_flops_per_second=1.4e13),
    )


def log() -> bytes:
    """A log of 120 iterations: 25 kB, which every report reads for its fingerprint."""
    stream = io.StringIO()
    events = EventLog(0, stream)
    for step in range(120):
        events.step(step, 512, 2.1333333333333333, 40.0 - step / 100, "train")
    return stream.getvalue().encode()


def make(folder: Path, count: int) -> None:
    text = log()
    environment = RunEnvironment(dlperf_version="0.1.0", nodes=(NODE,)).model_dump_json()
    made = 0
    for case in cases():
        for repeat in range(1, REPEATS + 1):
            if made == count:
                return
            run = run_folder(folder, case_id=case.case_id, repeat=repeat)
            (run / LOGS_FOLDER).mkdir(parents=True)
            (run / log_name(0)).write_bytes(text)
            (run / CASE_NAME).write_text(case.model_dump_json(indent=2))
            (run / ENVIRONMENT_NAME).write_text(environment)
            (run / RESULT_NAME).write_text(result(case, repeat).model_dump_json(indent=2))
            made += 1


def measured(arguments: list[str], *, out: Path) -> None:
    start = time.perf_counter()
    with (out.parent / "stdout").open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", "dlperf", *arguments], stdout=stream)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"dlperf {' '.join(arguments)} ended with status {status}")
    print(
        f"{arguments[0]:8} {out.name:16} {wall:6.2f} s wall, "
        f"{usage.ru_utime + usage.ru_stime:6.2f} s CPU, {usage.ru_maxrss / 1024:5.0f} MiB, "
        f"{out.stat().st_size / 2**20:.1f} MiB written"
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "many"
        make(folder, count)
        print(f"{count} results, {count // REPEATS} cases, load {os.getloadavg()[0]:.1f}")
        measured(["results", str(folder), "--format", "json"], out=Path(name) / "stdout")
        for form in ("md", "html", "csv", "json", "parquet"):
            target = Path(name) / f"report.{form}"
            measured(["report", str(folder), "--out", str(target)], out=target)
    print(f"peak of this script itself: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
