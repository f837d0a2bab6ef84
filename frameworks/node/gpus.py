"""The devices that CUDA shows to a process here, in its order. As a program it prints them as JSON.

nvidia-smi lists all GPUs; CUDA_VISIBLE_DEVICES chooses among them by CUDA's rules (CUDA Programming Guide,
"CUDA Environment Variables"; MIG User Guide, "CUDA Device Enumeration"). Its numbers are those of nvidia-smi,
as CUDA has them too with CUDA_DEVICE_ORDER=PCI_BUS_ID, which every rank is given.
"""

import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from typing import Dict, List, NamedTuple, Optional, Tuple

from frameworks.node.commands import TOOL_SECONDS, completed

# Drivers before 510 do not know the last one, those before 450 the last two.
FIELDS = ("index", "uuid", "name", "driver_version", "memory.total", "mig.mode.current", "compute_cap")
# Where no process keeps the driver awake, the first question wakes it: seconds per GPU.
DRIVER_SECONDS = 60
# It answers although a GPU's infoROM is corrupted, and adds a line that begins with WARNING.
GOOD_CODES = (0, 14)
LISTED_GPU = re.compile(r"GPU (\d+):")
LISTED_INSTANCE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")


class Device(NamedTuple):
    """A GPU, or an instance of one (MIG); the fields of dlperf/plan/machine.py's Gpu. None: not known."""

    name: str
    uuid: str
    index: int  # of the GPU, as nvidia-smi counts
    capability: Optional[str]
    driver: Optional[str]
    memory_bytes: Optional[int]
    mig: bool = False


class Listed(NamedTuple):
    """A GPU of nvidia-smi; CUDA uses its instances instead where it is in MIG mode."""

    gpu: Device
    is_divided: bool
    instances: Tuple[Device, ...] = ()


def visible_devices() -> List[Device]:
    """The devices of a process with this environment, in the order of its ranks; none without a driver."""
    return visible(listed_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(listed: List[Listed], names: Optional[str]) -> List[Device]:
    """What CUDA_VISIBLE_DEVICES, if it is set, leaves of the GPUs.

    A process sees one instance at most, and beside it no other GPU.
    """
    chosen: List[Device] = []
    for device in [entry.gpu for entry in listed] if names is None else _chosen(listed, names):
        entry = listed[[entry.gpu.index for entry in listed].index(device.index)]
        chosen += entry.instances[:1] if entry.is_divided and not device.mig else [device]
    instances = [device for device in chosen if device.mig]
    return instances[:1] or chosen


def _chosen(listed: List[Listed], names: str) -> List[Device]:
    """The devices that a list names; what follows its first mistake is not read, and nothing may stand twice.

    Numbers, GPU-... and MIG-... do not mix: the first one decides.
    """
    devices = [device for entry in listed for device in (entry.gpu, *entry.instances)]
    prefix = next((prefix for prefix in ("GPU-", "MIG-") if names.strip().startswith(prefix)), None)
    chosen: List[Device] = []
    for name in names.split(","):
        if prefix is None:
            number = re.match(r"\s*[+-]?\d+", name)  # CUDA reads `1x` as 1
            found = [entry.gpu for entry in listed if number and entry.gpu.index == int(number.group())]
        else:
            start = name.strip()
            found = [
                device for device in devices if start.startswith(prefix) and device.uuid.startswith(start)
            ]
        if len(found) != 1:
            break
        if found[0] in chosen:
            return []
        chosen += found
    return chosen


def listed_gpus() -> List[Listed]:
    """All GPUs of this machine with their instances; empty without a driver that answers."""
    for fields in (FIELDS, FIELDS[:-1], FIELDS[:-2]):
        query = f"--query-gpu={','.join(fields)}"
        done = completed("nvidia-smi", query, "--format=csv,noheader,nounits", seconds=DRIVER_SECONDS)
        if done is None:
            return []
        if done.returncode in GOOD_CODES:
            rows = [line.strip().split(", ") for line in done.stdout.splitlines()]
            found = [dict(zip(fields, row)) for row in rows if len(row) == len(fields) and row[0].isdigit()]
            break
    else:
        return []
    gpus = [_device(row) for row in found]
    divided = {row["index"] for row in found if row.get("mig.mode.current") == "Enabled"}
    instances = _instances(gpus) if divided else {}
    return [
        Listed(gpu, is_divided=str(gpu.index) in divided, instances=tuple(instances.get(gpu.index, ())))
        for gpu in gpus
    ]


def _device(row: Dict[str, str]) -> Device:
    capability, memory = row.get("compute_cap", ""), row["memory.total"]
    return Device(
        name=row["name"],
        uuid=row["uuid"],
        index=int(row["index"]),
        capability=capability if re.fullmatch(r"\d+\.\d+", capability) else None,
        driver=row["driver_version"] if re.fullmatch(r"[\d.]+", row["driver_version"]) else None,
        memory_bytes=int(memory) << 20 if memory.isdigit() else None,
    )


def _instances(gpus: List[Device]) -> Dict[int, List[Device]]:
    """The instances of each GPU by its index."""
    by_index = {gpu.index: gpu for gpu in gpus}
    sizes = _instance_sizes()
    found: Dict[int, List[Device]] = {}
    gpu = None
    for line in (nvidia_smi("-L", seconds=DRIVER_SECONDS) or "").splitlines():
        head, instance = LISTED_GPU.match(line), LISTED_INSTANCE.match(line)
        if head:
            gpu = by_index.get(int(head.group(1)))
        elif instance and gpu is not None:
            profile, number, uuid = instance.groups()
            device = gpu._replace(
                name=f"{gpu.name} MIG {profile}",
                uuid=uuid,
                memory_bytes=sizes.get((gpu.uuid, number)),
                mig=True,
            )
            found.setdefault(gpu.index, []).append(device)
    return found


def _instance_sizes() -> Dict[Tuple[str, str], int]:
    """Memory in bytes of each instance, by its GPU's UUID and its number there."""
    sizes = {}
    try:
        root = ET.fromstring(nvidia_smi("-q", "-x", seconds=DRIVER_SECONDS) or "<none/>")  # noqa: S314  of the driver
    except ET.ParseError:
        return {}
    for gpu in root.iter("gpu"):
        for instance in gpu.iter("mig_device"):
            amount, _, unit = (instance.findtext("fb_memory_usage/total") or "").partition(" ")
            if amount.isdigit() and unit == "MiB":
                place = gpu.findtext("uuid") or "", instance.findtext("index") or ""
                sizes[place] = int(amount) << 20
    return sizes


def nvidia_smi(*arguments: str, seconds: float = TOOL_SECONDS) -> Optional[str]:
    """What nvidia-smi answers, without its warnings; None if it is missing, fails or takes longer."""
    done = completed("nvidia-smi", *arguments, seconds=seconds)
    if done is None or done.returncode not in GOOD_CODES:
        return None
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith("WARNING"))


def gpu_rows(*fields: str, query: str = "gpu", seconds: float = TOOL_SECONDS) -> List[List[str]]:
    """What nvidia-smi lists, a row per GPU (or per process that uses one); empty without a driver."""
    question = f"--query-{query}={','.join(fields)}"
    text = nvidia_smi(question, "--format=csv,noheader,nounits", seconds=seconds)
    rows = [line.split(", ") for line in (text or "").splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def gpu_users(devices: List[Device]) -> List[str]:
    """Processes that use one of the whole GPUs among the devices: id and name."""
    uuids = {device.uuid for device in devices}
    rows = gpu_rows("gpu_uuid", "pid", "process_name", query="compute-apps")
    return [f"{pid} {name}" for uuid, pid, name in rows if uuid in uuids]


def main() -> None:
    """Print the devices, or with the argument `users` who uses them."""
    devices = visible_devices()
    print(json.dumps(gpu_users(devices) if "users" in sys.argv[1:] else [d._asdict() for d in devices]))


if __name__ == "__main__":
    main()
