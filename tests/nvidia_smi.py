"""A stand-in for nvidia-smi: no machine that runs the tests has a GPU. It answers what dlperf asks."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM = """\
#!{python} -IS
import json, sys, time
state = json.loads({state!r})
gpus, apps, unknown = state["gpus"], state["apps"], state["unknown"]
arguments = sys.argv[1:]
if arguments[0] == "-i":
    gpus = [gpu for gpu in gpus if {{gpu["uuid"], gpu["index"]}} & set(arguments[1].split(","))]
    apps = [app for app in apps if app["gpu_uuid"] in [gpu["uuid"] for gpu in gpus]]
    arguments = arguments[2:]
    if not gpus:
        sys.exit("No devices were found")
if "-lms" in arguments and state["streams"] is not None:
    query, _, fields = arguments[0].partition("=")
    if set(fields.split(",")) & set(unknown):
        sys.exit("Field is not a valid field to query.")
    for act in state["streams"].get(query.replace("--query-", ""), ["hang"]):
        if act == "hang":
            time.sleep(600)
        elif isinstance(act, int):
            sys.exit(act)
        else:
            stamp = time.time()
            now = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(stamp)) + ".%03d" % (stamp % 1 * 1000)
            print("\\n".join(line.replace("NOW", now) for line in act), flush=True)
            time.sleep(state["pause"])
    time.sleep(600)
if arguments[0].startswith("--query-"):
    what, _, fields = arguments[0].partition("=")
    for row in apps if what == "--query-compute-apps" else gpus:
        if set(fields.split(",")) & set(unknown):
            sys.exit("Field is not a valid field to query.")
        print(", ".join(row.get(field, "[N/A]") for field in fields.split(",")))
elif arguments[0] == "-L":
    for gpu in gpus:
        print("GPU %s: %s (UUID: %s)" % (gpu["index"], gpu["name"], gpu["uuid"]))
        for number, (profile, uuid, _) in enumerate(gpu["instances"]):
            print("  MIG %-12s Device %2d: (UUID: %s)" % (profile, number, uuid))
elif arguments == ["-q", "-x"]:
    print("<?xml version='1.0' ?><!DOCTYPE nvidia_smi_log SYSTEM 'nvsmi_device_v12.dtd'><nvidia_smi_log>")
    for gpu in gpus:
        print("<gpu><uuid>%s</uuid><mig_devices>" % gpu["uuid"])
        for number, (_, _, mebibytes) in enumerate(gpu["instances"]):
            print("<mig_device><index>%d</index><fb_memory_usage>" % number)
            print("<total>%d MiB</total></fb_memory_usage></mig_device>" % mebibytes)
        print("</mig_devices></gpu>")
    print("</nvidia_smi_log>")
else:
    sys.exit("unknown option %s" % arguments)
if state["corrupted"]:
    print("WARNING: infoROM is corrupted at gpu 0000:3B:00.0")
    sys.exit(14)
"""


# A GPU with no trouble.
_QUIET = {
    "memory.used": "4",
    "persistence_mode": "Enabled",
    "power.limit": "700.00",
    "ecc.errors.uncorrected.volatile.total": "0",
    "retired_pages.pending": "[N/A]",
    "remapped_rows.pending": "No",
    "remapped_rows.failure": "No",
}


@dataclass(frozen=True, kw_only=True)
class FakeGpu:
    """What nvidia-smi says of a GPU; `instances` (profile, UUID, MiB) put it into MIG mode."""

    name: str
    capability: str = "9.0"
    driver: str = "550.54.15"
    mebibytes: int = 81559
    free_mebibytes: int = 81000
    uuid: str = ""
    divided: bool = False
    instances: tuple[tuple[str, str, int], ...] = ()
    state: tuple[tuple[str, str], ...] = ()  # other fields


def write_nvidia_smi(
    folder: Path,
    *gpus: FakeGpu,
    apps: tuple[tuple[str, int, str], ...] = (),
    unknown: tuple[str, ...] = (),
    corrupted: bool = False,
    streams: dict[str, list[list[str] | str | int]] | None = None,
    pause: float = 0.1,
) -> None:
    """Put `nvidia-smi` into a folder.

    `streams` is what it replays with -lms, for `gpu` and `compute-apps`: lines of one moment, of which NOW
    becomes the time, `hang`, or the exit code that it ends with; `pause` is between two moments.

    `apps` are processes: UUID of the GPU, id, name. `unknown` are fields that an old driver does not know.
    `corrupted`: it warns of a GPU's infoROM with every answer.
    """
    rows = []
    for index, gpu in enumerate(gpus):
        values = asdict(gpu)
        rows.append(
            {
                "index": str(index),
                "uuid": gpu.uuid or f"GPU-{index}{'0' * 7}-1111-2222-3333-444444444444",
                "name": gpu.name,
                "compute_cap": gpu.capability,
                "driver_version": gpu.driver,
                "memory.total": str(gpu.mebibytes),
                "memory.free": str(gpu.free_mebibytes),
                "mig.mode.current": "Enabled" if gpu.divided or gpu.instances else "Disabled",
                "instances": values["instances"],
                "gpu_uuid": gpu.uuid or f"GPU-{index}{'0' * 7}-1111-2222-3333-444444444444",
                **_QUIET,
                **dict(gpu.state),
            }
        )
    users = [{"gpu_uuid": uuid, "pid": str(pid), "process_name": name} for uuid, pid, name in apps]
    state = json.dumps(
        {
            "gpus": rows,
            "apps": users,
            "unknown": unknown,
            "corrupted": corrupted,
            "streams": streams,
            "pause": pause,
        }
    )
    program = folder / "nvidia-smi"
    program.write_text(_PROGRAM.format(python=sys.executable, state=state))
    program.chmod(0o755)
