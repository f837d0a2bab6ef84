"""The nodes of a sweep: which are free, which are at work, which are set aside and why."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dlperf.plan.case import Case
    from dlperf.running.transports.base import Node


@dataclass(kw_only=True)
class Pool:
    """Nodes in the order of the cluster file. A case takes whole nodes, the first that are free. Thread-safe.

    `usable` says whether a node has the case's environment.
    """

    nodes: Sequence[Node]
    usable: Callable[[Node, Case], bool]
    _busy: set[str] = field(default_factory=set)
    _aside: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, case: Case) -> tuple[Node, ...] | None:
        """Nodes for the case, at work until they are given back; None where too few are free."""
        with self._lock:
            free = (node for node in self._fitting(case) if node.name not in self._busy)
            taken = tuple(itertools.islice(free, case.topology.nodes))
            if len(taken) < case.topology.nodes:
                return None
            self._busy |= {node.name for node in taken}
            return taken

    def give_back(self, nodes: Sequence[Node]) -> None:
        """They are free again, unless they were set aside meanwhile."""
        with self._lock:
            self._busy -= {node.name for node in nodes}

    def could_take(self, case: Case) -> bool:
        """Whether there are nodes for the case once all are free."""
        enough = tuple(itertools.islice(self._fitting(case), case.topology.nodes))
        return len(enough) == case.topology.nodes

    def lacks_environment(self, case: Case) -> bool:
        """Whether nodes enough are there, and too few of them have the case's environment."""
        if self.could_take(case):  # asked first: a node that is lost in answering is not there
            return False
        there = [node for node in self.nodes if node.name not in self._aside and node.fits(case)]
        return len(there) >= case.topology.nodes

    def set_aside(self, node: Node, reason: str) -> None:
        """Give the node nothing more to do."""
        self._aside[node.name] = reason

    def take_in(self, node: Node) -> None:
        """It works again."""
        self._aside.pop(node.name, None)

    @property
    def aside(self) -> dict[str, str]:
        """Names of the nodes that were set aside, and why."""
        return dict(self._aside)

    def _fitting(self, case: Case) -> Iterator[Node]:
        return (
            node
            for node in self.nodes
            if node.name not in self._aside and node.fits(case) and self.usable(node, case)
        )
