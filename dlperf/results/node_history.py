"""What happened to one node in stored runs and measurements, and how often."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dlperf.results.measurement import Measurement
from dlperf.results.outliers import judge_equals
from dlperf.results.schema import FAILED, RunResult, Status
from dlperf.results.store import StoredRun
from dlperf.wording import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One thing that went wrong: its kind in words, when, one line of evidence, and the folder of that."""

    what: str
    at: str | None  # ISO 8601 in UTC; None: not known
    evidence: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHistory:
    """A node's runs and measurements, and what went wrong in them, the oldest first."""

    node: str
    runs: int
    measurements: int
    incidents: tuple[Incident, ...]


def node_history(
    node: str, runs: Iterable[StoredRun], measurements: Iterable[tuple[Path, Measurement]]
) -> NodeHistory:
    """The history of a node, which runs call by its host name or its name in the cluster file.

    A run counts for every node that it ran on, as its result does not say which of them was the cause, but
    for a lost node, which its reason names.
    """
    own_runs = [run for run in runs if node in run.result.nodes]
    own = [
        (path, one)
        for path, one in measurements
        if node in one.lost or any(node in {each.name, each.facts.host} for each in one.nodes)
    ]
    found = [
        *(incident for run in own_runs for incident in _of_run(node, run.result, run.folder)),
        *(incident for path, one in own for incident in _of_measurement(node, one, path.parent)),
    ]
    return NodeHistory(
        node=node,
        runs=len(own_runs),
        measurements=len(own),
        incidents=tuple(sorted(found, key=lambda incident: incident.at or "")),
    )


def _of_run(node: str, result: RunResult, folder: Path) -> Iterator[Incident]:
    reason = result.reason or ""

    def incident(what: str, evidence: str) -> Incident:
        return Incident(what=what, at=result.started_at, evidence=evidence, path=folder)

    if result.status is Status.LOST_NODE:
        if f"{node}:" in reason:
            yield incident("lost", reason)
    elif result.status in FAILED:
        yield incident("out of memory" if result.status is Status.OOM else str(result.status), reason)
    times = result.rank_times
    if times is not None and times.is_straggler and times.host == node:
        often = f"{times.slowest_in} of {plural(times.steps, 'step')}"
        yield incident("slow", f"rank {times.slowest_rank} took {times.excess:.0%} longer in {often}")
    if result.telemetry is not None and result.telemetry.throttled:
        share, reasons = result.telemetry.throttled, ", ".join(result.telemetry.throttled_by)
        yield incident("throttled", f"clocks of a GPU held back {share:.1%} of the time ({reasons})")


def _of_measurement(node: str, measurement: Measurement, folder: Path) -> Iterator[Incident]:
    names = {each.name for each in measurement.nodes if node in {each.name, each.facts.host}} | {node}
    judgement = judge_equals(measurement)
    for finding in (*judgement.missing, *judgement.findings):
        if names & {finding.unit.node, finding.unit.peer}:
            what = "lost" if finding.metric is None else "slow"
            yield Incident(what=what, at=measurement.started_at, evidence=str(finding), path=folder)
