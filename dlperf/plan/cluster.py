"""Clusters: the nodes that a sweep runs on and the way to them, with everything decided.

What stands beside `nodes` is the default of every node; a node may say otherwise. The user's own ssh
configuration fills in what neither names (dlperf/running/transports/ssh_config.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlperf.errors import SourceErrors
from dlperf.machine import Machine
from dlperf.plan.cluster_file import ClusterFile, NodeEntry, problems, secrets
from dlperf.plan.files import find_file, shown
from dlperf.plan.validation import dotted, validate
from dlperf.plan.yaml_reader import read_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlperf.plan.case import Case, DeviceKind

DEFAULT_FOLDER = "~/.cache"
# Everything of dlperf on a node lies in one folder of this name, which nobody else uses, and can be removed.
_OWN_FOLDER = "dlperf-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """One node with everything decided that the file decides."""

    name: str
    address: str
    engine_address: str | None
    port: int | None
    user: str | None
    ssh_config: Path | None
    device: DeviceKind
    devices: int
    cores: int
    interface: str | None
    link: str | None
    folder: str
    environment: dict[str, str]
    python: str
    prefix: tuple[str, ...]
    environments: Literal["make", "copy"]

    @property
    def work(self) -> str:
        """The folder that is dlperf's own."""
        return f"{self.folder.rstrip('/')}/{_OWN_FOLDER}"

    @property
    def machine(self) -> Machine:
        """What a plan may count on."""
        gpus = ("NVIDIA GPU",) * self.devices if self.device == "cuda" else ()
        return Machine(cores=self.cores, gpus=gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A checked cluster."""

    name: str
    path: str
    nodes: tuple[ClusterNode, ...]

    @property
    def weakest(self) -> Machine:
        """What every node has."""
        devices = min(len(node.machine.gpus) for node in self.nodes)
        return Machine(
            cores=min(node.cores for node in self.nodes), gpus=self.nodes[0].machine.gpus[:devices]
        )

    def lacking(self, case: Case, *, oversubscribe: bool = False) -> str | None:
        """What the cluster lacks to run the case; None where it lacks nothing.

        `oversubscribe` lets devices of a CPU share cores.
        """
        wanted = case.topology.nodes
        if wanted > len(self.nodes):
            return f"needs {wanted} nodes; cluster {self.name} has {len(self.nodes)}"
        fitting = [node for node in self.nodes if fits(node, case, oversubscribe=oversubscribe)]
        if len(fitting) < wanted:
            needed = f"{case.topology.devices_per_node} {case.device} devices"
            return (
                f"needs {needed} and {case.topology.devices_per_node * case.threads_per_device} cores on "
                f"{wanted} of the nodes of cluster {self.name}, which {len(fitting) or 'none'} has"
            )
        return None


def fits(node: ClusterNode, case: Case, *, oversubscribe: bool = False) -> bool:
    """Whether a node has the devices that a case needs on each of its nodes, and the cores for CPU ranks."""
    devices = case.topology.devices_per_node
    enough_cores = case.device != "cpu" or devices * case.threads_per_device <= node.cores
    return node.device == case.device and devices <= node.devices and (enough_cores or oversubscribe)


def load_cluster(name: str, *, folder: Path | None = None) -> Cluster:
    """Load the cluster `name`: a path, or a file of ./clusters or of those that ship with dlperf.

    Raises:
        UserError: there is no such cluster.
        SourceErrors: every problem in the file.
    """
    folder = (folder or Path.cwd()).absolute()
    path = find_file("cluster", name, folders=(folder,))
    document = read_document(path, shown=shown(path, folder=folder))
    kept = list(secrets(document))
    file, found = validate(ClusterFile, document)
    told = {(problem.line, problem.column) for problem in kept}
    wrong = [*document.problems, *kept, *(p for p in found if (p.line, p.column) not in told)]
    if file is not None and not wrong:
        wrong = [
            document.place(where).problem(f"{dotted(where)}: {message}" if where else message)
            for where, message in problems(file)
        ]
    if file is None or wrong:
        raise SourceErrors(wrong)
    nodes = tuple(_resolved(file, folder=path.absolute().parent))
    return Cluster(name=path.stem, path=document.path, nodes=nodes)


def _resolved(file: ClusterFile, *, folder: Path) -> Iterator[ClusterNode]:
    """The nodes of a cluster file that lies in `folder`."""
    for node in file.nodes:

        def of(key: str, default: Any = None, *, node: NodeEntry = node) -> Any:
            given = [value for value in (getattr(node, key), getattr(file, key)) if value is not None]
            return given[0] if given else default

        yield ClusterNode(
            name=node.name,
            address=node.address or node.name,
            engine_address=node.engine_address,
            port=of("port"),
            user=of("user"),
            ssh_config=folder / Path(config).expanduser() if (config := of("ssh_config")) else None,
            device=of("device", "cuda"),
            devices=of("devices"),
            cores=of("cores"),
            interface=of("interface"),
            link=of("link"),
            folder=of("folder", DEFAULT_FOLDER),
            environment={**(file.environment or {}), **(node.environment or {})},
            python=of("python", "python3"),
            prefix=of("prefix", ()),
            environments=of("environments", "make"),
        )
