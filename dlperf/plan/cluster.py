"""Clusters: the nodes that a sweep runs on and the way to them, with everything decided.

What stands beside `nodes` is the default of every node; a node may say otherwise. The user's own ssh
configuration fills in what neither names (dlperf/running/transports/ssh_config.py).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PositiveInt, Tag, WithJsonSchema

from dlperf.errors import Problem, SourceErrors
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind, bytes_text
from dlperf.plan.documents import (
    Document,
    KeyPath,
    dotted,
    find_file,
    read_document,
    require_kind,
    shown,
    validate,
)
from dlperf.plan.machine import Gpu, Machine, least_of, version_key
from dlperf.plan.sweep import MemorySize, Seconds
from dlperf.wording import plural

# A key with one of these words is somebody's try to put a secret into a file that others can read.
_SECRET_KEYS = re.compile(r"pass(word|wd|phrase)?|secret|token", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*")
_LONGEST_LINE = 80
# Before its end a job of Slurm starts no run that cannot end, and is told so by a signal.
LAST_SECONDS = 120
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _host(text: str) -> str:
    """Names end up in folders, tables and commands of other tools."""
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is not a host name, alias or address")
    return text


def _variables(values: dict[str, str]) -> dict[str, str]:
    for name in values:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not a variable name")
    return values


def _short_line(text: str) -> str:
    """It stands in tables and headings."""
    if not text.strip() or not text.isprintable() or len(text) > _LONGEST_LINE:
        raise ValueError(f"must be one line of 1 to {_LONGEST_LINE} characters")
    return text


def _capability(value: Any) -> Any:
    """YAML reads 7.0 as a number."""
    return f"{value:.1f}" if isinstance(value, int | float) and value == round(value, 1) else value


def _matching(pattern: str, example: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be like {example}, not {text!r}")
        return text

    return AfterValidator(check)


def _device(value: Any) -> Any:
    """A number is meant for another key."""
    if isinstance(value, int):
        raise ValueError(f"must be cpu or cuda, not {value}; how many a node has is the key 'devices'")  # noqa: TRY004
    return value


def _interface(name: str) -> str:
    """Linux allows 15 characters, and tools of the engines read more into the others."""
    if not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,15}", name):
        raise ValueError(f"{name!r} is not the name of a network interface, such as 'ib0'")
    return name


def _absolute(folder: str) -> str:
    """What it would be relative to differs from node to node."""
    if not folder.startswith(("/", "~")):
        raise ValueError(f"{folder!r} is relative; write where it lies on the node, such as '/scratch'")
    return folder


Text = Annotated[str, Field(min_length=1)]
Host = Annotated[Text, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Variables = Annotated[dict[str, str], AfterValidator(_variables)]
Link = Annotated[str, AfterValidator(_short_line)]
NodeDevice = Annotated[Literal["cpu", "cuda"], BeforeValidator(_device)]
Interface = Annotated[str, AfterValidator(_interface)]
Folder = Annotated[Text, AfterValidator(_absolute)]
Capability = Annotated[
    str,
    BeforeValidator(_capability),
    _matching(r"\d+\.\d", "9.0"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": ["9.0"]}),
]


class GpuEntry(Model):
    """What the GPUs of a node are, for plans; a run asks the node itself."""

    name: Text
    """Model name, or a part of what nvidia-smi says, such as `V100`."""
    capability: Capability | None = None
    """Compute capability, such as `7.0`; by default it is not checked."""
    driver: Annotated[str, _matching(r"\d+(\.\d+)+", "550.54.15")] | None = None
    """Version of the driver, such as `550.54.15`; an older one is refused. By default it is not checked."""
    memory: MemorySize | None = None
    """Memory of one GPU: bytes, or text such as `16GiB`; searches for limits start from it. By default it is
    not known."""


class NodeSettings(Model):
    """What can be said of one node, or of all of them. None: not given."""

    port: Port | None = None
    """Port of sshd; by default as your ssh configuration says, else 22."""
    user: Text | None = None
    """User to log in as; by default as your ssh configuration says."""
    ssh_config: Text | None = None
    """File to read in place of `~/.ssh/config`, as `ssh -F` does; relative to the cluster file."""
    device: NodeDevice | None = None
    """What the devices are: `cuda` (the default) or `cpu`, the same for all nodes."""
    devices: PositiveInt | None = None
    """Devices of a node, and so the most ranks there; required, here or for each node."""
    gpu: GpuEntry | None = None
    """What the GPUs of a node are, for plans, which ask no node; by default not known."""
    cores: PositiveInt | None = None
    """CPU cores of a node that ranks may use; required, here or for each node."""
    interface: Interface | None = None
    """Network interface between the nodes, such as `ib0`; by default the engine chooses."""
    link: Link | None = None
    """A name for the network between the nodes, such as `100 Gbit/s InfiniBand`; a part of the hardware in
    results, which dlperf does not check."""
    folder: Folder | None = None
    """Folder on the node for `dlperf-node` with code, environments and runs; by default `~/.cache`."""
    environment: Variables | None = None
    """Environment variables of everything that dlperf starts there; no place for secrets."""
    python: Text | None = None
    """Python 3.8 or newer for dlperf's own programs there: a path, or a name on `PATH`; by default
    `python3`."""
    prefix: tuple[Text, ...] | None = None
    """Words before every command, for containers, such as `[docker, exec, -i, NAME]`; by default none."""
    environments: Literal["make", "copy", "shared"] | None = None
    """`make`: environments are made on the node with uv, the default with ssh. `copy`: made here and copied.
    `shared`: made here in dlperf's cache, which the nodes see under the same path, the default with slurm."""


def _named(value: Any) -> Any:
    if not isinstance(value, str | dict | NodeEntry):
        raise ValueError(f"must be a host name, or a mapping with 'name', not {value!r}")  # noqa: TRY004
    return {"name": value} if isinstance(value, str) else value


class NodeEntry(NodeSettings):
    """One node; `address` is what ssh connects to, `engine_address` what the other nodes' ranks do."""

    name: Host
    """Name in messages and reports; for ssh, an alias or a host name."""
    address: Host | None = None
    """Address that ssh connects to; by default the name."""
    engine_address: Host | None = None
    """Address where ranks on other nodes reach this one; by default that of the interface, else of ssh."""


def _or_name(schema: dict[str, Any]) -> None:
    """In the JSON Schema: the name may stand for the mapping."""
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, mapping]


NodeReference = Annotated[NodeEntry, Field(json_schema_extra=_or_name), BeforeValidator(_named)]


class SlurmSubmit(Model):
    """Options of the jobs that a sweep is submitted as; `dlperf docs clusters` describes them."""

    partition: Text | None = None
    """Partition; by default Slurm's."""
    account: Text | None = None
    """Account that pays; by default Slurm's."""
    qos: Text | None = None
    """Quality of service; by default Slurm's."""
    time: Seconds | None = None
    """Time limit of a job: seconds, or text such as `4h`; by default the partition's."""
    exclusive: bool = True
    """Take whole nodes; other jobs on a node would disturb the runs."""
    gpus: Literal["gres", "gpus_per_node", "none"] = "gres"
    """How GPUs are asked for: `--gres=gpu:N`, `--gpus-per-node=N`, or not at all. With device cpu, never."""
    constraint: Text | None = None
    """Features that the nodes must have, such as `h100`."""
    extra: tuple[Annotated[str, _matching(r"--[a-z][a-z0-9-]*(=.*)?", "--reservation=tests")], ...] = ()
    """Further options of sbatch, such as `[--reservation=tests]`."""
    parallel_jobs: PositiveInt | None = None
    """Most jobs of `allocate: per_cell` that run at a time; by default as many as Slurm has nodes for."""
    continue_: Annotated[bool, Field(alias="continue")] = False
    """Submit a follow-up job for the runs that a job has left; by default the command says how to go on."""


class Container(Model):
    """An image that everything on the nodes of a job runs in; dlperf itself stays outside."""

    runtime: Literal["pyxis", "apptainer"]
    """`pyxis` (with enroot): options of srun. `apptainer`: its `exec` before every program."""
    image: Text
    """Image file, such as `/shared/dl.sqsh`, or what the runtime takes in its place."""
    mounts: tuple[Folder, ...] = ()
    """Folders that the container shows under their own names, such as `[/scratch]`."""


class ClusterFile(NodeSettings):
    """A cluster file."""

    transport: Literal["ssh", "slurm"] = "ssh"
    """The way to the nodes: `ssh`, or a job of `slurm`."""
    nodes: Annotated[
        Annotated[PositiveInt, Tag("count")] | Annotated[tuple[NodeReference, ...], Tag("list")],
        Discriminator(lambda value: "count" if isinstance(value, int) else "list"),
    ] = ()
    """With ssh the nodes, each as its name, or as a mapping with `name` and what differs from the keys beside
    `nodes`. With slurm how many nodes a job takes: with `allocate: per_cell` the most."""
    allocate: Literal["held", "per_cell"] | None = None
    """With slurm alone. `held`: one job holds all nodes for the whole sweep, the default. `per_cell`: one job
    for each cell of the grid, with as many nodes as its topology has."""
    submit: SlurmSubmit | None = None
    """Options of the jobs, with slurm alone."""
    container: Container | None = None
    """Image that the programs run in, with slurm alone; by default none."""
    notes: str = ""
    """Text for people."""


def secrets(document: Document) -> Iterator[Problem]:
    """Keys that look like a place for a secret."""
    for path, place in document.keys.items():
        if _SECRET_KEYS.fullmatch(str(path[-1])) and "environment" not in path:
            yield place.problem(
                f"{dotted(path)}: do not put secrets into a file; use a key with ssh-agent, or IdentityFile "
                "in ~/.ssh/config"
            )


def problems(file: ClusterFile) -> Iterator[tuple[KeyPath, str]]:
    """Where keys that are right one by one do not go together, and what is wrong there."""
    yield from _slurm_problems(file) if file.transport == "slurm" else _ssh_problems(file)


def _ssh_problems(file: ClusterFile) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(file.nodes, int):
        yield ("nodes",), "must be a list of host names, or of mappings with 'name'; a number goes with slurm"
        return
    for key in ("allocate", "submit", "container"):
        if getattr(file, key) is not None:
            yield (key,), "belongs to 'transport: slurm'"
    if not file.nodes:
        yield (), "key 'nodes' is missing: a list of host names, or of mappings with 'name'"
    yield from _mixed_devices(file)
    names: set[str] = set()
    places: dict[tuple[str, int | None], str] = {}
    for index, node in enumerate(file.nodes):
        spot = ("nodes", index)
        where = (node.address or node.name, node.port or file.port)
        if node.name in names:
            yield spot, f"node {node.name!r} is listed twice; remove one"
        elif where in places and (node.prefix or file.prefix) is None:
            yield spot, f"{node.name!r} is the same machine as {places[where]!r}; remove one"
        names.add(node.name)
        places.setdefault(where, node.name)
        for key in ("devices", "cores"):
            if getattr(node, key) is None and getattr(file, key) is None:
                needed = f"the number of {key} of {node.name!r}, here or for all nodes"
                yield spot, f"key {key!r} is missing: {needed}"


def _slurm_problems(file: ClusterFile) -> Iterator[tuple[KeyPath, str]]:
    if not isinstance(file.nodes, int):
        yield (
            ("nodes",) if file.nodes else (),
            "with slurm 'nodes' is how many nodes the job takes, such as 2",
        )
    for key in ("port", "user", "ssh_config", "prefix"):
        if getattr(file, key) is not None:
            yield (key,), "belongs to 'transport: ssh'"
    for key in ("devices", "cores"):
        if getattr(file, key) is None:
            yield (), f"key {key!r} is missing: the number of {key} of each node"
    if file.gpu is not None and file.device == "cpu":
        yield ("gpu",), "describes GPUs, and the nodes have device cpu; remove it"
    if file.submit is not None and file.submit.time is not None and file.submit.time <= LAST_SECONDS:
        text = f"must be longer than {LAST_SECONDS} s: in the last {LAST_SECONDS} s of a job no run starts"
        yield ("submit", "time"), text
    if file.submit is not None and file.submit.parallel_jobs is not None and file.allocate != "per_cell":
        yield ("submit", "parallel_jobs"), "belongs to 'allocate: per_cell'; otherwise there is one job"


def _mixed_devices(file: ClusterFile) -> Iterator[tuple[KeyPath, str]]:
    """Results of CPUs and of GPUs have nothing in common, and `device: auto` would choose one of them."""
    nodes = file.nodes if isinstance(file.nodes, tuple) else ()
    devices = [node.device or file.device or "cuda" for node in nodes]
    for index, (node, device) in enumerate(zip(nodes, devices, strict=True)):
        if device != devices[0]:
            first = f"node {nodes[0].name!r} has device {devices[0]}"
            text = f"{first}, node {node.name!r} {device}: give each kind its own cluster file"
            yield ("nodes", index), text
        if device == "cpu" and node.gpu is not None:
            yield ("nodes", index, "gpu"), "describes GPUs, and the node has device cpu; remove it"
    if file.gpu is not None and "cpu" in devices:
        yield ("gpu",), "describes GPUs, and the nodes have device cpu; remove it"


# Everything of dlperf on a node lies in one folder of this name, which nobody else uses, and can be removed.
_OWN_FOLDER = "dlperf-node"


class ClusterNode(NodeEntry):
    """One node with everything decided that the file decides."""

    address: Host
    ssh_config_file: Path | None  # `ssh_config` as seen from the cluster file's folder
    device: DeviceKind = "cuda"
    devices: PositiveInt
    cores: PositiveInt
    folder: Text = "~/.cache"
    environment: Variables
    python: Text = "python3"
    prefix: tuple[Text, ...] = ()
    environments: Literal["make", "copy", "shared"] = "make"

    @property
    def work(self) -> str:
        """The folder that is dlperf's own."""
        return f"{self.folder.rstrip('/')}/{_OWN_FOLDER}"

    @property
    def machine(self) -> Machine:
        """What a plan may count on."""
        gpu = self.gpu or GpuEntry(name="NVIDIA GPU")
        described = Gpu(name=gpu.name, capability=gpu.capability, driver=gpu.driver, memory_bytes=gpu.memory)
        return Machine(cores=self.cores, gpus=(described,) * self.devices if self.device == "cuda" else ())

    def lacking(self, gpus: Sequence[Gpu]) -> str | None:
        """Where the node's real GPUs are fewer or other than the file says; None: nowhere."""
        if self.device != "cuda":
            return None
        if len(gpus) < self.devices:
            named = f"CUDA shows {len(gpus) or 'none'}"
            return f"the cluster file says {self.devices} GPUs, {named}"
        differences = (_difference(self.gpu, gpu) for gpu in gpus[: self.devices] if self.gpu is not None)
        return next((text for text in differences if text is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A checked cluster."""

    name: str
    path: str
    nodes: tuple[ClusterNode, ...]  # of Slurm without names yet: node1 and so on
    slurm: SlurmSubmit | None = None  # None: they are reached over ssh
    allocate: Literal["held", "per_cell"] = "held"  # of Slurm
    container: Container | None = None

    def of_nodes(self, count: int) -> "Cluster":
        """The cluster with its first nodes alone."""
        return replace(self, nodes=self.nodes[:count])

    @property
    def weakest(self) -> Machine:
        """What every node has: of everything the least, as far as the file says it."""
        machines = [node.machine for node in self.nodes]
        cores = min(machine.cores for machine in machines)
        devices = min(len(machine.gpus) for machine in machines)
        if devices == 0:
            return Machine(cores=cores)
        least = least_of([machine.gpus[0] for machine in machines])
        return Machine(cores=cores, gpus=(least,) * devices if least else ())

    def lacking(self, case: Case, *, oversubscribe: bool = False) -> str | None:
        """What the cluster lacks to run the case; None where it lacks nothing.

        `oversubscribe` lets devices of a CPU share cores.
        """
        wanted = case.topology.nodes
        if wanted > len(self.nodes):
            return f"needs {wanted} nodes; cluster {self.name} has {len(self.nodes)}"
        fitting = [node for node in self.nodes if fits(node, case, oversubscribe=oversubscribe)]
        if len(fitting) < wanted:
            devices = case.topology.devices_per_node
            each = f"{devices} {case.device} devices and {devices * case.threads_per_device} cores each"
            nodes = plural(wanted, "node")
            return f"needs {nodes} with {each}; cluster {self.name} has {len(fitting) or 'none'}"
        return None


def fits(node: ClusterNode, case: Case, *, oversubscribe: bool = False) -> bool:
    """Whether a node has the devices that a case needs on each of its nodes, and the cores for CPU ranks."""
    devices = case.topology.devices_per_node
    enough_cores = case.device != "cpu" or devices * case.threads_per_device <= node.cores
    return node.device == case.device and devices <= node.devices and (enough_cores or oversubscribe)


_SAME_MEMORY = 0.9  # a GPU of 16 GB may have 15.8 GiB


def _difference(described: GpuEntry, gpu: Gpu) -> str | None:
    """Where a real GPU is worse than its description, or another one; a newer driver is as good."""
    if described.name.casefold() not in gpu.name.casefold():
        return f"the cluster file says GPU {described.name}, CUDA shows {gpu.name}"
    if described.capability and gpu.capability and described.capability != gpu.capability:
        said = f"compute capability {described.capability}"
        return f"the cluster file says {said}, {gpu.name} has {gpu.capability}"
    if described.driver and gpu.driver and version_key(gpu.driver) < version_key(described.driver):
        return f"the cluster file says driver {described.driver}, the node has {gpu.driver}"
    if described.memory and gpu.memory_bytes and gpu.memory_bytes < _SAME_MEMORY * described.memory:
        has = f"{gpu.memory_bytes / 2**30:.1f} GiB"
        return f"the cluster file says {bytes_text(described.memory)} per GPU, {gpu.name} has {has}"
    return None


def load_cluster(name: str, *, folder: Path | None = None) -> Cluster:
    """Load the cluster `name`: a path, or a file of ./clusters or of those that ship with dlperf.

    UserError where there is none; SourceErrors holds every problem in the file.
    """
    folder = (folder or Path.cwd()).absolute()
    path = find_file("cluster", name, folders=(folder,))
    document = read_document(path, shown=shown(path, folder=folder))
    require_kind(document, "cluster")
    kept = list(secrets(document))
    file, found = validate(ClusterFile, document)
    reported = {(problem.line, problem.column) for problem in kept}
    wrong = [*document.problems, *kept, *(p for p in found if (p.line, p.column) not in reported)]
    if file is not None and not wrong:
        wrong = [document.problem(path, message) for path, message in problems(file)]
    if file is None or wrong:
        raise SourceErrors(wrong)
    entries = file.nodes if isinstance(file.nodes, tuple) else _unnamed(file.nodes)
    nodes = tuple(_resolved(file, node, folder=path.absolute().parent) for node in entries)
    slurm = (file.submit or SlurmSubmit()) if file.transport == "slurm" else None
    return Cluster(
        name=path.stem,
        path=document.path,
        nodes=nodes,
        slurm=slurm,
        allocate=file.allocate or "held",
        container=file.container,
    )


def _unnamed(count: int) -> tuple[NodeEntry, ...]:
    """The nodes of a job that Slurm has not chosen yet."""
    return tuple(NodeEntry(name=f"node{number}") for number in range(1, count + 1))


def _resolved(file: ClusterFile, node: NodeEntry, *, folder: Path) -> ClusterNode:
    """A node of a cluster file that lies in `folder`; what it does not say itself comes from the file."""
    shared = {name: value for name, value in file if value is not None and name in NodeSettings.model_fields}
    values: dict[str, Any] = shared | {name: value for name, value in node if value is not None}
    values.setdefault("address", node.name)
    if file.transport == "slurm":
        values.setdefault("environments", "shared")
    config = values.get("ssh_config")
    values["ssh_config_file"] = folder / Path(config).expanduser() if config else None
    values["environment"] = {**(file.environment or {}), **(node.environment or {})}
    return ClusterNode(**values)
