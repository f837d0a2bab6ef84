"""The program of the package's docstring: every node's part in one list of rounds.

One process per node, started as a rank of a case; TASK is JSON (`Task`). All processes work through the same
rounds, which each makes for itself. A round begins when all have ended the one before, so that at any time
only the nodes of one round work.

Each figure is an event `measured`, in units per second or in seconds, with `metric`, `repeat` and `device` or
`peer` (a node's rank) as metadata; what could not be measured is an event `not_measured` with the reason.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set

import torch
import torch.distributed as dist

from frameworks.common.case import RENDEZVOUS_SECONDS, Case, rank_from_environment, read_case
from frameworks.common.events import EventLog
from frameworks.common.program import exit_at_once
from frameworks.measuring.devices import device_measures
from frameworks.measuring.disks import disk_rates, files_below, limits, read_rate
from frameworks.measuring.links import Link
from frameworks.measuring.rounds import Nodes, rounds_of_links, rounds_of_nodes
from frameworks.node.gpus import nvidia_smi
from frameworks.pytorch.settings import configure

# A round is over within minutes; of what hangs longer the supervisor's time limit makes an end.
_ROUND_SECONDS = 1800


class Task(NamedTuple):
    """What to measure.

    `seconds` of each measurement, `repeats` of all, `parallel_nodes` at a time; `devices` of a node;
    `file_bytes` at most of a file on the disk; `data` is a folder to read from, None: none. Repeats before
    `first_repeat`, from 1, were made already.
    """

    repeats: int
    seconds: float
    parallel_nodes: int
    devices: int
    file_bytes: int
    data: Optional[str]
    first_repeat: int = 1


class Program:
    """One node's part."""

    def __init__(self, case: Case, task: Task) -> None:
        self._task, self._kind, self._threads = task, case.device, case.threads_per_device
        rank = rank_from_environment()
        self._rank, self._nodes = rank.rank, rank.world_size
        self._log = EventLog(rank.rank)
        self._data = None if task.data is None else Path(task.data)
        self._store = dist.TCPStore(
            rank.master_address,
            rank.master_port,
            rank.world_size,
            rank.rank == 0,
            timeout=timedelta(seconds=RENDEZVOUS_SECONDS),
        )
        self._store.set_timeout(timedelta(seconds=_ROUND_SECONDS))
        self._rounds_over = 0
        self._broken: Set[Nodes] = set()  # links that did not connect, which every repeat would wait for

    def run(self) -> None:
        """Measure everything, one repeat after the other; every second one in reversed order."""
        self._log.event("node_state", self._state())
        parallel = self._task.parallel_nodes
        rounds = rounds_of_nodes(self._nodes, parallel=parallel)
        rounds += rounds_of_links(self._nodes, parallel=parallel)
        for repeat in range(self._task.first_repeat, self._task.repeats + 1):
            self._log.event("repeat_start", repeat=repeat)
            for busy in rounds if repeat % 2 else reversed(rounds):
                for nodes in busy:
                    if nodes == (self._rank,):
                        self._measure_node(repeat)
                    elif self._rank in nodes:
                        self._measure_link(nodes, repeat)
                self._until_all_are_here()
        self._leave()

    def _state(self) -> Dict[str, Any]:
        topology = nvidia_smi("topo", "-m") if self._kind == "cuda" else None
        more = {"threads": self._threads, "version": torch.__version__, "topology": topology}
        return {**limits(Path.cwd(), self._data), **more}

    def _until_all_are_here(self) -> None:
        self._rounds_over += 1
        name = f"round{self._rounds_over}"
        if self._store.add(f"{name}/here", 1) == self._nodes:
            self._store.set(f"{name}/over", "")
        self._store.wait([f"{name}/over"])

    def _leave(self) -> None:
        """The store is in the process of rank 0, which therefore leaves last."""
        if self._store.add("left", 1) == self._nodes:
            self._store.set("all left", "")
        if self._rank == 0:
            self._store.wait(["all left"])

    def _figure(self, repeat: int, metric: str, measure: Callable[[], float], **place: Any) -> bool:
        """Log what `measure` gives, or why it gives nothing; whether there is a figure."""
        try:
            self._log.event("measured", measure(), metric=metric, repeat=repeat, **place)
        except (RuntimeError, OSError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._log.event("not_measured", why, metric=metric, repeat=repeat, **place)
            return False
        return True

    def _measure_node(self, repeat: int) -> None:
        names = ["cpu"] if self._kind == "cpu" else [f"cuda:{number}" for number in range(self._task.devices)]
        for name in names:
            for metric, measure in device_measures(torch.device(name), self._threads, self._task.seconds):
                self._figure(repeat, metric, measure, device=name.replace("cuda:", "gpu"))
        bounds: Dict[str, Any] = {"most_bytes": self._task.file_bytes, "seconds": self._task.seconds}
        read: List[float] = []

        def written() -> float:
            rates = disk_rates(Path.cwd(), **bounds)
            read.append(rates[1])
            return rates[0]

        if self._figure(repeat, "disk_write", written):
            self._figure(repeat, "disk_read", read.pop)
        if self._data is not None:
            files = files_below(self._data, most_bytes=self._task.file_bytes)
            self._figure(repeat, "data_read", lambda: read_rate(files, **bounds))

    def _measure_link(self, nodes: Nodes, repeat: int) -> None:
        """Between two nodes; the one of the lower rank logs the figures."""
        peer, seconds = sum(nodes) - self._rank, self._task.seconds / 2
        store = dist.PrefixStore(f"link{nodes[0]}-{nodes[1]}/{repeat}", self._store)
        links: List[Link] = []

        def latency() -> float:
            if nodes in self._broken:
                raise RuntimeError("it did not connect in the first repeat")
            self._broken.add(nodes)
            links.append(Link(store, is_first=peer == nodes[1], kind=self._kind))
            self._broken.remove(nodes)
            return links[0].latency(seconds)

        if peer == nodes[1]:
            if self._figure(repeat, "link_latency", latency, peer=peer):
                self._figure(repeat, "link_bandwidth", lambda: links[0].bandwidth(seconds), peer=peer)
            return
        try:
            latency()
            links[0].bandwidth(seconds)
        except (RuntimeError, OSError) as error:  # the other one has an event for it
            print(f"link to the node of rank {peer}: {error}", flush=True)


def main() -> None:
    """Measure as the arguments say."""
    case = read_case(sys.argv[1])
    configure(case)
    Program(case, Task(**json.loads(sys.argv[2]))).run()
    exit_at_once(0)  # threads of gloo abort a process that shuts its interpreter down


if __name__ == "__main__":
    main()
