"""A runner that has the machine itself measured around each block of runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from dlperf.running.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.adapters.base import Adapter
    from dlperf.plan.case import Case
    from dlperf.results.schema import RunResult
    from dlperf.running.run_nodes import ReadyNode
    from dlperf.running.sentinel import BlockWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRunner(Runner):
    """Tells `watch` of each run before it starts."""

    watch: BlockWatch

    def run(
        self, case: Case, *, repeat: int, folder: Path, adapter: Adapter, nodes: Sequence[ReadyNode]
    ) -> RunResult:
        """As `Runner.run`."""
        self.watch.entering(case, repeat)
        return Runner.run(self, case, repeat=repeat, folder=folder, adapter=adapter, nodes=nodes)


def watched(runner: Runner, watch: BlockWatch) -> WatchedRunner:
    """The same runner, watched."""
    return WatchedRunner(**{one.name: getattr(runner, one.name) for one in fields(runner)}, watch=watch)
