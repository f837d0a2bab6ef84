"""How much of a run's CPU time other work on its machines took, from the events that its ranks printed.

    waited  = wait / (run + wait)            of the rank's threads: ready to run, but without a CPU
    others  = 1 - ours / (busy - steal)      of the work on the rank's CPUs; ours is that of all ranks on them
    stolen  = steal / busy                   what other virtual machines took of the rank's CPUs
    crowd   = (machine_busy - ours) / (seconds x machine_cpus)    others' use of all CPUs of the machine
    share   = 1 - (1 - min(waited, others)) (1 - stolen)          for a GPU
    share   = 1 - (1 - max(min(waited, others), crowd)) (1 - stolen)    for CPU devices

Threads also wait for each other, where ranks have more threads than CPUs: then no other work is there. Others
may also run on CPUs that the rank does not need: then nobody waits. So the smaller of the two is the share
that others took. Work on other CPUs still slows a CPU device down, through caches, memory and cores of which
two CPUs are halves, which a virtual machine does not show: hence the crowd. A run's share is that of the rank
that was disturbed most, as ranks wait for each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dlperf.logs.events import TRAIN, Event, finite
from dlperf.plan.case import DeviceKind
from dlperf.results.schema import Interference, RunResult

_SECONDS = ("run_seconds", "wait_seconds", "busy_seconds", "steal_seconds", "machine_busy_seconds")
_TICK_SECONDS = 0.01  # the kernel counts busy CPUs in ticks: each may be counted for one too many


def interference_of(events: Mapping[int, Sequence[Event]], *, device: DeviceKind) -> Interference | None:
    """The interference of a run from its events by rank; None where no rank could measure it."""
    counters = {kind: _counters(events, kind) for kind in ("warmup", TRAIN)}
    shares = {
        kind: max((_shares(own, ranks, device) for own in ranks), key=lambda found: found["share"])
        for kind, ranks in counters.items()
        if ranks
    }
    if TRAIN not in shares:
        return None
    warmup = shares.get("warmup")
    return Interference(**shares[TRAIN], warmup_share=None if warmup is None else warmup["share"])


def interference_line(result: RunResult) -> str:
    """`0.4% of its CPU time taken by other work (1.2% during warm-up)`."""
    found = result.interference
    if found is None:
        return "not measured"
    warmup = "" if found.warmup_share is None else f" ({found.warmup_share:.1%} during warm-up)"
    return f"{found.share:.1%} of its CPU time taken by other work{warmup}"


def _counters(events: Mapping[int, Sequence[Event]], kind: str) -> list[dict[str, Any]]:
    """What each rank read of one kind of window; the last one where a log holds several runs."""
    found = []
    for own in events.values():
        values = [
            event.value
            for event in own
            if event.key == "interference" and event.metadata.get("kind") == kind and _is_valid(event.value)
        ]
        found += values[-1:]
    return found


def _is_valid(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("cpus"), list):
        return False
    numbers = [finite(value.get(name)) for name in (*_SECONDS, "seconds", "machine_cpus")]
    return all(number is not None and number >= 0 for number in numbers) and all(
        isinstance(cpu, int) for cpu in value["cpus"]
    )


def _shares(own: dict[str, Any], ranks: Sequence[dict[str, Any]], device: DeviceKind) -> dict[str, float]:
    run, wait, busy, steal, machine_busy = (float(own[name]) for name in _SECONDS)
    cpus, machine_cpus = set(own["cpus"]), float(own["machine_cpus"])
    here = [
        rank
        for rank in ranks
        if rank is own or (rank.get("machine") == own.get("machine") and own.get("machine") is not None)
    ]
    ours = sum(
        float(rank["run_seconds"]) * len(cpus.intersection(rank["cpus"])) / max(1, len(set(rank["cpus"])))
        for rank in here
    )
    beside = machine_busy - sum(float(rank["run_seconds"]) for rank in here) - machine_cpus * _TICK_SECONDS
    capacity = float(own["seconds"]) * machine_cpus
    crowd = min(1.0, max(0.0, beside) / capacity) if capacity > 0 else 0.0
    waited = wait / (run + wait) if run + wait > 0 else 0.0
    work = max(busy - steal, ours)
    others = 1 - ours / work if work > 0 else 0.0
    stolen = min(1.0, steal / busy) if busy > 0 else 0.0
    taken = min(waited, others)
    return {
        "share": 1 - (1 - (max(taken, crowd) if device == "cpu" else taken)) * (1 - stolen),
        "waited": waited,
        "others": others,
        "stolen": stolen,
        "crowd": crowd,
    }
