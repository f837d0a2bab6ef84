"""Run folders as a supervisor leaves them, written through the programs' own event log. For tests only."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from dlperf.logs.events import event_line
from dlperf.plan.case import Case, Loss, Measure, Topology, Workload
from dlperf.results.schema import Node, RunEnvironment
from dlperf.results.store import store_run
from frameworks.common.events import END, START, EventLog
from frameworks.node.telemetry import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Y1 = Workload(
    experiment="y1",
    network="mobilefacenet",
    head="GDC",
    embedding_size=128,
    dataset="emore",
    loss=Loss(kind="arcface", m2=0.5),
)
MACHINE = Node(
    host="node-a", cpu="Example CPU 3000", cores=8, memory_bytes=16 * 2**30, system="Debian 12", kernel="6.1"
)


def make_case(**changes: Any) -> Case:
    """MXNet on one CPU device, 2 warm-up and 4 measured iterations, with the changes."""
    fields = {
        "framework": "mxnet",
        "version": "1.9.1",
        "workload": Y1,
        "parallelism": "data",
        "topology": Topology(nodes=1, devices_per_node=1),
        "device": "cpu",
        "batch_size_per_device": 8,
        "num_classes": 100,
        "threads_per_device": 2,
        "measure": Measure(warmup_iterations=2, measured_iterations=4),
    }
    return Case(**{**fields, **changes})


def log_text(
    case: Case,
    *,
    seconds: Sequence[float],
    losses: Sequence[float] | None = None,
    rank: int = 0,
    facts: dict[str, Any] | None = None,
) -> str:
    """What a rank prints when its iterations take these seconds; fewer than iterations: it was cut off.

    `facts` are further ones of the engine.
    """
    stream = io.StringIO()
    log = EventLog(rank, stream)
    log.event("init_start", event_type=START)
    names = {"name": case.framework, "version": case.version, "threads": case.threads_per_device}
    log.event("framework", {**names, **(facts or {})})
    log.event("global_batch_size", case.global_batch_size)
    log.event(
        "model_cost",
        {
            "network_parameters": 1_000_000,
            "classifier_parameters": 12_800,
            "network_macs_per_sample": 450_000_000,
            "classifier_macs_per_sample": 12_800,
            "training_flops_per_sample": 2_700_076_800,
        },
    )
    log.event("matmul_flops_per_second", 7.0e10)
    log.event("init_stop", event_type=END)
    log.event("run_start", event_type=START)
    warmup, whole = (
        case.measure.warmup_iterations,
        case.measure.warmup_iterations + case.measure.measured_iterations,
    )
    losses = losses or [40.0 - step for step in range(whole)]
    for step, (took, loss) in enumerate(zip(seconds, losses, strict=False)):
        log.step(step, case.global_batch_size, took, loss, "warmup" if step < warmup else "train")
    if len(seconds) >= whole:
        log.event("run_stop", event_type=END, status="success")
        log.event("peak_anonymous_bytes", (500 + rank) * 2**20)
    return stream.getvalue()


def write_run(
    sweep: Path,
    case: Case,
    *,
    repeat: int = 1,
    seconds: Sequence[float] = (2.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    losses: Sequence[float] | None = None,
    log: str | None = None,
    facts: dict[str, Any] | None = None,
    phases: dict[str, float] | None = None,
    reading: dict[str, dict[str, Any]] | None = None,
    outcome: dict[str, Any] | None = None,
    nodes: Sequence[Node] = (MACHINE,),
) -> Path:
    """A run folder with everything that the supervisor and the runner leave, without a result.

    `reading` holds the values of the events `data_set` and `reading` of rank 0.
    """
    folder = sweep / "runs" / case.case_id / f"r{repeat}"
    (folder / "logs").mkdir(parents=True)
    (folder / "case.json").write_text(case.model_dump_json(indent=2))
    environment = RunEnvironment(dlperf_version="0.1.0", git_commit="0123456789ab", nodes=tuple(nodes))
    (folder / "environment.json").write_text(environment.model_dump_json())
    text = log_text(case, seconds=seconds, losses=losses, facts=facts) if log is None else log
    if phases is not None:
        stream = io.StringIO()
        EventLog(0, stream).event("time_breakdown", phases, iterations=3)
        text += stream.getvalue()
    for key, value in (reading or {}).items():
        text += event_line(key, value, {"kind": "train"} if key == "reading" else None)
    (folder / "logs" / "rank0.log").write_text(text)
    for rank in range(1, case.topology.world_size):
        (folder / "logs" / f"rank{rank}.log").write_text(
            log_text(case, seconds=seconds, losses=losses, rank=rank)
        )
    (folder / "outcome.json").write_text(json.dumps({**completed(case), **(outcome or {})}))
    return folder


def completed(case: Case) -> dict[str, Any]:
    """What the supervisor writes when every rank ended well."""
    ranks = [
        {"rank": rank, "exit_code": 0, "signal": None, "seconds": 12.1}
        for rank in range(case.topology.world_size)
    ]
    return {
        "schema_version": 1,
        "reason": "completed",
        "detail": None,
        "host": "node-a",
        "started_at": "2026-01-02T03:04:05Z",
        "seconds": 12.3,
        "ranks": ranks,
        "first_failed_rank": None,
    }


def failed(reason: str, *, exit_code: int = 1, signal: int | None = None, rank: int = 0) -> dict[str, Any]:
    """What the supervisor writes when a rank, or the whole run, came to a bad end."""
    end = {"rank": rank, "exit_code": None if signal else exit_code, "signal": signal, "seconds": 3.0}
    return {"reason": reason, "ranks": [end], "first_failed_rank": rank if reason == "rank_failed" else None}


def store_good_runs(sweep: Path, case: Case, rates: Sequence[float], **settings: Any) -> None:
    """One good run a rate (samples/s of the whole job), with its result."""
    steps = case.measure.warmup_iterations + case.measure.measured_iterations
    for repeat, rate in enumerate(rates, 1):
        seconds = [case.global_batch_size / rate] * steps
        store_run(write_run(sweep, case, repeat=repeat, seconds=seconds, **settings))


# When the first step of a run of `timed` begins, in ms.
BEGAN_MS = 1_767_323_045_000


def timed(log: str, *, shift_ms: int = 0) -> str:
    """A log with the times of a run whose steps took as long as it says, from `BEGAN_MS` on."""
    lines, now = [], BEGAN_MS + shift_ms
    for line in log.splitlines():
        event = json.loads(line.removeprefix(":::MLLOG "))
        if event["key"] == "tracked_stats":
            now += round(1000 * event["value"]["seconds"])
        lines.append(f":::MLLOG {json.dumps({**event, 'time_ms': now})}\n")
    return "".join(lines)


def telemetry_text(rows: Sequence[dict[str, Any]]) -> str:
    """The file of a sampler: `at` is in seconds behind `BEGAN_MS`, everything else a column."""
    cells = (
        {"time_ms": BEGAN_MS + round(1000 * row["at"]), **{k: v for k, v in row.items() if k != "at"}}
        for row in rows
    )
    lines = (",".join(str(row.get(column, "")) for column in COLUMNS) for row in cells)
    return "".join(f"{line}\n" for line in (",".join(COLUMNS), *lines))
