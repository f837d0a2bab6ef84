"""Checks of what this machine, or a node of a cluster, says of itself (frameworks/node/condition.py).

One result per check, with the next step if it is not ok. Some settings matter only where machines differ.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlperf.environments.environment import environments_root
from dlperf.files import run_shipped
from dlperf.model import Model
from dlperf.running.health import HealthIssue, Level
from dlperf.wording import plural

_SECONDS = 120.0  # drivers and interpreters that are asked may be slow, but not for ever
# RDMA pins what it sends; the buffers of NCCL take some hundred MiB per rank.
_LITTLE_MEMLOCK_BYTES = 1 << 30
# Containers have 64 MiB. NCCL takes some MiB per pair of ranks, a reader of images its batches.
_LITTLE_SHARED_BYTES = 1 << 30
_LITTLE_HOME_BYTES = 1 << 30
# An idle driver holds less, and so does a display.
_HELD_MIB = 1024
# Bridges and the like of containers and virtual machines: nothing behind them is on another node.
_NCCL_LEAVES_OUT = ("lo", "docker")
_BRIDGES = ("br-", "virbr", "veth", "cni", "flannel", "cali", "podman", "lxc", "vmnet", "kube")


class Space(Model):
    """A folder's file system."""

    path: str
    total_bytes: int
    free_bytes: int
    is_writable: bool


class Header(Model):
    """Where the Python of an environment of PyTorch has its header; empty if it does not start."""

    python: str
    version: str
    header: str
    exists: bool


class GpuState(Model):
    """The state of a GPU; None: its driver does not say."""

    index: int
    name: str
    is_divided: bool | None
    memory_used_mib: float | None
    processes: int
    persistence: bool | None
    power_limit_watts: float | None
    uncorrected_errors: float | None  # since it was reset
    pages_pending: bool | None
    rows_pending: bool | None
    rows_failed: bool | None


class Condition(Model):
    """What a machine says of itself."""

    cpus: tuple[int, ...]
    memlock_bytes: int | None  # None: no limit
    rdma_devices: tuple[str, ...]
    shared_memory: Space | None
    home: Space | None
    interfaces: dict[str, str]  # name -> IPv4 address
    host_address: str | None  # that its own name stands for
    gpus: tuple[GpuState, ...]
    asked_compiler: str | None  # CC
    compiler: str | None
    headers: tuple[Header, ...]


def this_condition() -> Condition:
    """What this machine says; InfrastructureError where the program that looks fails."""
    module, folder = "frameworks.node.condition", str(environments_root())
    return Condition.model_validate_json(run_shipped(module, folder, seconds=_SECONDS, what=module))


def check_condition(condition: Condition) -> Iterator[HealthIssue]:
    """All checks of one machine."""
    yield _cpu_ids(condition.cpus)
    yield _memlock(condition)
    yield _shared_memory(condition.shared_memory)
    yield _home(condition.home)
    if condition.gpus:
        yield from _divided(condition.gpus)
        yield from _held(condition.gpus)
        yield from _memory_errors(condition.gpus)
        yield from _compiler(condition)


def check_interface(condition: Condition, *, reached_at: str, device: str) -> HealthIssue:
    """Which interface engines choose on a node of several where the cluster file names none.

    gloo takes the one that the host's name stands for, NCCL all but loopback and Docker's. The interface to
    name is the one with the address `reached_at`, at which the node was reached.
    """
    own, address, dead_ends = condition.interfaces, condition.host_address, (*_NCCL_LEAVES_OUT, *_BRIDGES)
    real = [name for name in own if not name.startswith(dead_ends)]
    right = next((name for name in real if own[name] == reached_at), real[0] if real else "eth0")
    remedy = f"put `interface: {right}` into the cluster file"
    if address is None:
        return _warning("interface", f"its own name, which gloo looks up, has no address: {remedy}")
    chosen = "lo" if address.startswith("127.") else next((n for n in own if own[n] == address), None)
    if chosen is None or chosen.startswith(dead_ends):
        where = "no interface has" if chosen is None else f"is on {chosen} and leads to no other node"
        return _warning("interface", f"gloo takes {address}, its own name's address, which {where}: {remedy}")
    stray = [name for name in own if name.startswith(_BRIDGES)]
    if device == "cuda" and stray:
        text = f"NCCL may choose {', '.join(stray)}, behind which there is no other node"
        return _warning("interface", f"{text}: {remedy}")
    return _ok("interface", f"engines choose {chosen}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """A setting of a GPU that makes equal GPUs unequal."""

    name: str
    value: Callable[[GpuState], float | None]  # the larger one is right where none is more frequent
    text: Callable[[float], str]
    option: str  # of nvidia-smi, with the value


_SETTINGS = (
    _Setting(
        name="power limit",
        value=lambda gpu: gpu.power_limit_watts,
        text=lambda watts: f"{watts:g} W",
        option="-pl {:g}",
    ),
    _Setting(
        name="persistence mode",
        value=lambda gpu: gpu.persistence,
        text=lambda is_on: "on" if is_on else "off",
        option="-pm {:d}",
    ),
)


def check_alike(conditions: Mapping[str, Condition]) -> Iterator[tuple[str, HealthIssue]]:
    """The machines of which GPUs are set otherwise than most GPUs of their name, each with the result."""
    gpus = [(machine, gpu) for machine, one in conditions.items() for gpu in one.gpus]
    for name in dict.fromkeys(gpu.name for _, gpu in gpus):
        for setting in _SETTINGS:
            values = [
                (machine, gpu.index, value)
                for machine, gpu in gpus
                if gpu.name == name and (value := setting.value(gpu)) is not None
            ]
            counts = Counter(value for _, _, value in values)
            if not counts:
                continue
            usual = max(counts, key=lambda value: (counts[value], value))
            unlike: dict[tuple[str, float], list[int]] = {}
            for machine, index, value in values:
                if value != usual:
                    unlike.setdefault((machine, value), []).append(index)
            for (machine, value), indices in unlike.items():
                text = f"{setting.text(value)} on {_gpus(indices)}, {setting.text(usual)} elsewhere"
                command = f"nvidia-smi -i {_listed(indices)} {setting.option.format(usual)}"
                yield machine, _warning(setting.name, f"{text}: `{command}` as root")


def _cpu_ids(cpus: Sequence[int]) -> HealthIssue:
    missing = sorted(set(range(min(cpus), max(cpus) + 1)) - set(cpus))
    if not missing:
        return _ok("CPU ids", f"{_ranges(cpus)}, without holes")
    text = f"{_ranges(cpus)} without {_ranges(missing)}, to which a program that only counts CPUs binds"
    return _warning("CPU ids", f"{text}: switch them on, or give dlperf a range without holes (taskset)")


def _memlock(condition: Condition) -> HealthIssue:
    """Programs that sshd starts have its limits, often lower than those of a login."""
    check, limit = "locked memory", condition.memlock_bytes
    if limit is None:
        return _ok(check, "no limit")
    if limit >= _LITTLE_MEMLOCK_BYTES or not condition.rdma_devices:
        without = "" if condition.rdma_devices else "; without RDMA nothing needs more"
        return _ok(check, f"up to {_size(limit)}{without}")
    text = f"up to {_size(limit)}, and RDMA ({', '.join(condition.rdma_devices)}) locks what it sends"
    remedy = "unlimited memlock in /etc/security/limits.d, LimitMEMLOCK=infinity of sshd or slurmd"
    return _warning(check, f"{text}: set {remedy}")


def _shared_memory(space: Space | None) -> HealthIssue:
    check, remedy = "shared memory", "--shm-size=8g of a container, else `mount -o remount,size=50% /dev/shm`"
    if space is None:
        return _warning(check, f"no /dev/shm, which NCCL and readers of images need: {remedy}")
    text = f"{_size(space.free_bytes)} of {_size(space.total_bytes)} free in {space.path}"
    if space.total_bytes < _LITTLE_SHARED_BYTES:
        return _warning(check, f"{text}, too little for NCCL and readers of images: {remedy}")
    if space.free_bytes < _LITTLE_SHARED_BYTES:
        return _warning(check, f"{text}: remove what programs that ended left there")
    return _ok(check, text)


def _home(space: Space | None) -> HealthIssue:
    """Triton, CUDA and uv keep caches and Pythons there, wherever dlperf's own folder is."""
    remedy = "set HOME (of nodes in `environment`) to a folder with room"
    if space is None:
        return _warning("home", f"there is no home folder, where engines keep caches: {remedy}")
    if not space.is_writable:
        return _warning("home", f"{space.path}, where engines keep caches, is not writable: {remedy}")
    text = f"{_size(space.free_bytes)} free in {space.path}"
    if space.free_bytes < _LITTLE_HOME_BYTES:
        return _warning("home", f"{text}, where engines keep caches: free some, or {remedy}")
    return _ok("home", text)


def _divided(gpus: Sequence[GpuState]) -> Iterator[HealthIssue]:
    divided = [gpu.index for gpu in gpus if gpu.is_divided]
    if divided:
        text = f"{_gpus(divided)} in MIG mode, of which a process sees one instance, and no other GPU"
        yield _warning("MIG", f"{text}: `nvidia-smi -i {_listed(divided)} -mig 0` as root ends it")


def _held(gpus: Sequence[GpuState]) -> Iterator[HealthIssue]:
    for gpu in gpus:
        if not gpu.is_divided and not gpu.processes and (gpu.memory_used_mib or 0) >= _HELD_MIB:
            text = (
                f"{gpu.memory_used_mib:.0f} MiB of GPU {gpu.index} are held, and nvidia-smi lists no process "
                "(a container's, a display's, one that hangs): `fuser -v /dev/nvidia*` as root names it"
            )
            yield _warning("GPU memory", text)


def _memory_errors(gpus: Sequence[GpuState]) -> Iterator[HealthIssue]:
    for gpu in gpus:
        reset = f"`nvidia-smi -i {gpu.index} --gpu-reset` as root, or a restart"
        if gpu.rows_failed:
            text = f"GPU {gpu.index} has no spare rows left for defective ones: have it replaced"
            yield _warning("GPU errors", text)
        elif gpu.rows_pending or gpu.pages_pending:
            what = "rows" if gpu.rows_pending else "pages"
            text = f"GPU {gpu.index} uses defective {what} of memory until it is reset: {reset}"
            yield _warning("GPU errors", text)
        elif gpu.uncorrected_errors:
            count = plural(int(gpu.uncorrected_errors), "error")
            text = f"GPU {gpu.index} has {count} in memory that ECC could not correct: {reset}"
            yield _warning("GPU errors", f"{text}; replace it if they come again")


def _compiler(condition: Condition) -> Iterator[HealthIssue]:
    """What torch.compile needs on a GPU, where it is on by default: it builds what launches its kernels."""
    without = "or set `options: {pytorch: {compile: false}}`"
    asked = condition.asked_compiler
    if condition.compiler is None:
        lacking = f"CC={asked} is no program" if asked else "no gcc or clang on PATH"
        remedy = f"install one (Debian, Ubuntu: apt install gcc) {without}"
        yield _warning("C compiler", f"{lacking}, which torch.compile needs: {remedy}")
    else:
        yield _ok("C compiler", f"torch.compile can use {condition.compiler}")
    for one in condition.headers:
        if not one.header:
            remedy = "remove its environment, which the next run makes again"
            yield _warning("Python headers", f"{one.python} does not start: {remedy}")
        elif one.exists:
            yield _ok("Python headers", f"torch.compile can use {one.header}")
        else:
            remedy = f"install them (Debian, Ubuntu: apt install python{one.version}-dev) {without}"
            yield _warning("Python headers", f"no {one.header}, which torch.compile needs: {remedy}")


def _ok(check: str, text: str) -> HealthIssue:
    return HealthIssue(check=check, level=Level.OK, text=text)


def _warning(check: str, text: str) -> HealthIssue:
    return HealthIssue(check=check, level=Level.WARNING, text=text)


def _ranges(numbers: Sequence[int]) -> str:
    """Such as `0-3,8`."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _gpus(indices: Sequence[int]) -> str:
    return f"{'GPU' if len(indices) == 1 else 'GPUs'} {_ranges(indices)}"


def _listed(indices: Sequence[int]) -> str:
    return ",".join(map(str, indices))


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 1 << 30 else f"{size / 2**20:.0f} MiB"
