"""Virtual nodes: the whole way from a plan to a report, nothing of it measured, and everything says so.

A run takes no time: what it would have printed is written at once. The same seed, case, repeat and nodes give
the same logs, byte for byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlperf.environments import Environment, Manifest
from dlperf.environments.environment import environment_key
from dlperf.plan.case import Case
from dlperf.plan.cluster import fits
from dlperf.results.environment import Node as NodeFacts
from dlperf.results.environment import read_environment
from dlperf.running.launch_file import LaunchFile
from dlperf.running.run_folder import CASE_NAME
from dlperf.running.transports.base import NodeLost
from dlperf.running.transports.sim_logs import Course, course_of, rank_log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dlperf.adapters.base import EnvironmentSpec
    from dlperf.plan.cluster import ClusterNode
    from dlperf.plan.cluster_file import Simulation
    from dlperf.running.places import Core

_NOWHERE = Path("/simulated")
_PORT = 1


class SimConnection:
    """A supervisor that has ended already; `said` is all that it said, None of it where its node was lost."""

    removal_command = "true"

    def __init__(self, said: bytes, *, code: int | None) -> None:
        self._said, self._code = said, code

    def receive(self) -> bytes:
        """See Connection."""
        said, self._said = self._said, b""
        return said

    def send(self, data: bytes) -> None:
        """See Connection; nobody listens."""

    def exit_code(self) -> int | None:
        """See Connection."""
        return self._code

    def complaint(self) -> str:
        """See Connection."""
        return ""

    def hang_up(self) -> None:
        """See Connection."""

    def close(self) -> None:
        """See Connection."""


class SimNode:
    """One virtual node."""

    remote = True
    address = "simulated"
    interface = None
    code = _NOWHERE
    variables = ()

    def __init__(self, spec: ClusterNode, simulation: Simulation) -> None:
        self._spec, self._simulation = spec, simulation
        self.name = spec.name
        self.trouble: str | None = None

    def connect(self) -> None:
        """See Node; a virtual node that was lost comes back at once."""
        self.trouble = None

    def fits(self, case: Case) -> bool:
        """See Node."""
        return fits(self._spec, case, oversubscribe=True)

    @property
    def cores(self) -> Mapping[int, Core]:
        """See Node."""
        return {cpu: (0, cpu) for cpu in range(self._spec.cores)}

    def case_file(self, folder: Path) -> Path:
        """See Node."""
        return _NOWHERE / folder.parent.name / folder.name / CASE_NAME

    def facts(self) -> NodeFacts:
        """See Node."""
        gpus = ("SIMULATED GPU",) * self._spec.devices if self._spec.device == "cuda" else ()
        return NodeFacts(
            host=self.name,
            cpu="SIMULATED CPU",
            cores=self._spec.cores,
            accelerators=gpus,
            link=self._spec.link,
        )

    def inherited(self) -> dict[str, str]:
        """See Node."""
        return {}

    def free_port(self) -> int:
        """See Node."""
        return _PORT

    def environment(self, spec: EnvironmentSpec, *, python: Path | None) -> Environment:
        """See Node; nothing is installed."""
        del python
        manifest = Manifest(
            key=environment_key(spec),
            spec=spec,
            version=spec.version,
            python_version="simulated",
            packages={},
            installer="simulated",
            created_at="simulated",
        )
        root = _NOWHERE / manifest.key
        return Environment(root=root, python=root / "bin" / "python", manifest=manifest, lock=None)

    def open(self, folder: Path, *, launch: str) -> SimConnection:
        """See Node; writes the logs of this node's ranks."""
        if self.trouble is not None:
            raise NodeLost(self, self.trouble)
        told = LaunchFile.model_validate_json((folder / launch).read_bytes())
        case = Case.model_validate_json((folder / CASE_NAME).read_bytes())
        around = read_environment(folder)
        hosts = [node.host for node in around.nodes] if around is not None else [self.name]
        course = course_of(case, simulation=self._simulation, run=folder.name, hosts=hosts)
        if self.name == course.lost_host:
            self.trouble = "lost: simulated"
            return SimConnection(b"", code=None)
        (folder / "logs").mkdir(exist_ok=True)
        for rank in told.ranks:
            (folder / rank.log).write_text(rank_log(case, course, rank=rank.rank), encoding="utf-8")
        outcome = _outcome(told, course, host=self.name)
        (folder / _outcome_name(launch)).write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
        events = [{"event": "rank_exit", **end} for end in outcome["ranks"] if end["exit_code"]]
        events.append({"event": "finished", "outcome": outcome})
        said = "".join(json.dumps(event) + "\n" for event in events)
        return SimConnection(said.encode(), code=0 if outcome["reason"] == "completed" else 1)

    def bring_back(self, folder: Path, *, outcome: str) -> None:
        """See Node; everything is here."""


def _outcome_name(launch: str) -> str:
    return launch.replace("launch", "outcome", 1)


def _outcome(told: LaunchFile, course: Course, *, host: str) -> dict[str, Any]:
    """What a supervisor would have left, and that none did."""
    ranks = [rank.rank for rank in told.ranks]
    failed = course.failed_rank if course.failed_rank in ranks else None
    ended = course.hangs or (course.failed_rank is not None and failed is None)  # by the supervisor
    ends = [
        {
            "rank": rank,
            "exit_code": None if ended or (failed is not None and rank != failed) else int(rank == failed),
            "signal": 9 if ended or (failed is not None and rank != failed) else None,
            "seconds": course.seconds,
        }
        for rank in ranks
    ]
    reason = "completed"
    if course.hangs:
        reason = "stall_limit"
    elif failed is not None:
        reason = "rank_failed"
    elif course.failed_rank is not None:
        reason = "stopped"
    return {
        "schema_version": 1,
        "simulated": True,
        "reason": reason,
        "detail": None,
        "host": host,
        "started_at": "1970-01-01T00:00:00.000+00:00",
        "seconds": course.seconds,
        "ranks": ends,
        "first_failed_rank": failed,
        "oom_kills": 0,
        "processes_left": [],
    }
