"""Measurements of nodes for tests, made as if `dlperf cluster measure` had."""

from __future__ import annotations

import math
import random
from itertools import combinations
from typing import TYPE_CHECKING, Any

from dlperf.layout import MEASUREMENT_NAME
from dlperf.results.measurement import MeasuredNode, Measurement, Series
from dlperf.results.schema import Node

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LEVELS = {"matrix_fp32": 1e11, "memory_bandwidth": 4e10, "disk_write": 1e9}
LINKS = {"link_latency": 4e-5, "link_bandwidth": 1e9}


def make_measurement(
    nodes: int = 4,
    *,
    factors: Mapping[tuple[str, ...], float] | None = None,
    noise: float = 0.01,
    repeats: int = 5,
    seed: int = 0,
    cpu: str = "EPYC",
    **more: Any,
) -> Measurement:
    """Equal nodes `node0` and so on; `factors` of what is not, by (metric, node) or (metric, node, peer)."""
    draw, factors = random.Random(seed), factors or {}  # noqa: S311  no secret
    names = [f"node{number}" for number in range(nodes)]

    def values(level: float, *key: str) -> tuple[float, ...]:
        level *= factors.get(key, 1.0)
        return tuple(level * math.exp(draw.gauss(0, noise)) for _ in range(repeats))

    series = [
        Series(
            metric=metric,
            node=name,
            device=None if metric.startswith("disk") else "cpu",
            values=values(level, metric, name),
        )
        for name in names
        for metric, level in LEVELS.items()
    ]
    series += [
        Series(metric=metric, node=one, peer=other, values=values(level, metric, one, other))
        for one, other in combinations(names, 2)
        for metric, level in LINKS.items()
    ]
    content = {
        "dlperf_version": "0.1.0",
        "cluster": "lab",
        "started_at": "2026-12-01T10:00:00+00:00",
        "engine": "2.13.0+cpu",
        "transport": "gloo",
        "seconds": 1.0,
        "repeats": repeats,
        "nodes": tuple(MeasuredNode(name=name, facts=Node(host=f"host-{name}", cpu=cpu)) for name in names),
        "series": tuple(series),
    }
    return Measurement(**(content | more))


def store(measurement: Measurement, folder: Path) -> Path:
    """Write it into a folder of its own; the folder."""
    folder.mkdir(parents=True)
    (folder / MEASUREMENT_NAME).write_text(measurement.model_dump_json())
    return folder
