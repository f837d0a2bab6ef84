"""A node that ssh reaches."""

from __future__ import annotations

from collections.abc import Callable

from dlperf.plan.cluster import ClusterNode
from dlperf.running.transports.remote import RemoteNode
from dlperf.running.transports.ssh_config import target_of
from dlperf.running.transports.ssh_link import Link


class SshNode(RemoteNode):
    """A node that ssh reaches."""

    def __init__(self, spec: ClusterNode, *, cluster: str, say: Callable[[str], None]) -> None:
        """UserError if the ssh configuration cannot be read or followed."""
        self._ssh = target_of(spec)
        super().__init__(spec, target=self._ssh, cluster=cluster, say=say)

    def _linked(self) -> Link:
        return Link(self._ssh)
