"""A node of a job of Slurm: one long step carries everything, as a connection does for ssh."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from dlperf.plan.cluster import ClusterNode, Container
from dlperf.results.schema import Node as NodeFacts
from dlperf.running.slurm import clean_environment, has_node, step_command
from dlperf.running.transports.base import NodeGone
from dlperf.running.transports.remote import RemoteNode
from dlperf.running.transports.step_link import StepLink

# Steps begin within a second, unless the node is lost: Slurm itself would wait for ever.
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where a node of a job is, as `target` of ssh says it."""

    job: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        return f"{self.host} of job {self.job}"


class SlurmNode(RemoteNode):
    """One node of the job that this process runs in."""

    def __init__(
        self,
        spec: ClusterNode,
        *,
        job: str,
        address: str,
        features: str,
        container: Container | None,
        cluster: str,
        say: Callable[[str], None],
    ) -> None:
        """`spec` has the node's name; `address` is where ranks of other nodes reach it."""
        self._job, self._container, self._features = job, container, features
        super().__init__(spec, target=JobPlace(job, address), cluster=cluster, say=say)

    def reach(self) -> None:
        """Connect; NodeGone where Slurm has taken the node from the job."""
        if not has_node(self.name):
            self.close()
            self.trouble = "Slurm has set it down; it does not come back to this job"
            raise NodeGone(self, self.trouble)
        super().reach()

    def facts(self) -> NodeFacts:
        return super().facts().model_copy(update={"features": self._features or None})

    def _few_cores(self, cores: int) -> str:
        return (
            f"the cluster file says {self._spec.cores} cores, programs of its step may use {cores}: the job "
            "was given fewer (see submit.exclusive, cores), or a variable such as SLURM_CPU_BIND binds them"
        )

    def _linked(self) -> StepLink:
        return StepLink(
            step_command(self._job, self.name, container=self._container),
            python=self._spec.python,
            limit_seconds=_START_SECONDS,
            environment=clean_environment(os.environ),
        )
