"""How often `dlperf cluster measure` names the right one: `python benchmarks/outliers.py simulate|lab`.

`simulate` draws measurements of equal nodes and of those with one slow node, with noise of several kinds.

`lab` (needs root) measures hosts in network namespaces, each with its own sshd, over ssh: four with one that
has half the time of a CPU (a control group), the same four as equals, and five with one link at 100 Mbit/s (a
token bucket). They share this machine, so that they measure one at a time, before its other work. Which host
or link is slow changes from trial to trial, and the three kinds of trials alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from labs import ROOT, NetLab, cluster_file, require_lab  # beside this file

from dlperf.adapters.registry import load_adapters
from dlperf.environments import ensure
from dlperf.statistics.basic import LEVEL, holm
from dlperf.statistics.outliers import among_equals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

REPEATS, MARGIN, FIGURES = 5, 0.05, 6
DISTURBED, TIMES_LARGER = 0.1, 10
SLOWER = 0.3
HOSTS, LINKED_HOSTS = 4, 5
RATE = "100mbit"


def noise(kind: str, shape: tuple[int, int], sd: float, draw: np.random.Generator) -> NDArray[np.float64]:
    """Logarithms [node, repeat] of one figure: normal, some disturbed, or drifting from repeat to repeat."""
    values = draw.normal(0, sd, shape)
    if kind == "disturbed":
        return values - (draw.random(shape) < DISTURBED) * np.abs(draw.normal(0, TIMES_LARGER * sd, shape))
    if kind == "drifting":
        return values + np.cumsum(draw.normal(0, 2 * sd, shape[1]))
    return values


def named(figures: Sequence[NDArray[np.float64]]) -> set[int]:
    """The nodes that a measurement of some figures names."""
    tests = [
        (node, deficit.p(MARGIN))
        for figure in figures
        for node, deficit in among_equals({node: list(row) for node, row in enumerate(figure)}).items()
    ]
    adjusted = holm([p for _, p in tests])
    return {node for (node, _), p in zip(tests, adjusted, strict=True) if p <= LEVEL}


def simulate(measurements: int) -> None:
    draw = np.random.default_rng(1)
    print(
        "| noise | repeats differ by | nodes differ by | nodes | any name on equal nodes | slow node named |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for kind in ("normal", "disturbed", "drifting"):
        for sd, between in ((0.002, 0.0), (0.002, 0.02), (0.02, 0.0), (0.1, 0.0)):
            for nodes in (4, 8, 32):
                alarms = found = 0
                for _ in range(measurements):
                    figures = [
                        noise(kind, (nodes, REPEATS), sd, draw) + draw.normal(0, between, (nodes, 1))
                        for _ in range(FIGURES)
                    ]
                    alarms += bool(named(figures))
                    figures[0][0] += np.log1p(-SLOWER)
                    found += 0 in named(figures)
                shares = f"{100 * alarms / measurements:.1f} % | {100 * found / measurements:.0f} %"
                print(f"| {kind} | {100 * sd:g} % | {100 * between:g} % | {nodes} | {shares} |", flush=True)


def measure(
    lab: NetLab, hosts: int, *, python: Path, folder: Path, seconds: float, repeats: int
) -> list[dict[str, Any]] | None:
    """The findings of one measurement; None where it did not come to its end."""
    cluster = cluster_file(lab.home / f"hosts{hosts}.yaml", lab, hosts, folder="/root/disk")
    command = [sys.executable, "-m", "dlperf", "cluster", "measure", str(cluster)]
    options = ["--python", str(python), "--parallel-nodes", "1", "--seconds", str(seconds), "--disk", "16MiB"]
    options += ["--repeats", str(repeats)]
    done = subprocess.run(
        [*command, *options, "--results", str(folder), "--json"],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
        env=os.environ
        | {"HOME": str(lab.home), "DLPERF_HOST_LOCK": f"{lab.folder}/lock", "PYTHONPATH": str(ROOT)},
    )
    if done.returncode not in {0, 1}:
        return None
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return findings


def trial(kind: str, number: int, lab: NetLab, **settings: Any) -> tuple[str, list[str]]:
    """Whether it named what it should (`right`), nothing, or something else too (`wrong`), and its lines.

    `failed`: it did not come to its end.
    """
    with ExitStack() as held:
        if kind == "link":
            pair = list(combinations(lab.hosts, 2))[number % 10]
            for host, other in (pair, pair[::-1]):
                host.shape_to(other, RATE)
                held.callback(host.shape, None)
            wanted = f"link {pair[0].name} to {pair[1].name}"
        elif kind == "slow":
            wanted = f"node {lab.hosts[number % HOSTS].name}"
        else:
            wanted = ""
        for host in lab.hosts:
            held.enter_context(host.with_cpu_time(0.5 if wanted == f"node {host.name}" else None))
        findings = measure(lab, LINKED_HOSTS if kind == "link" else HOSTS, **settings)
    if findings is None:
        return "failed", []
    texts = [finding["text"] for finding in findings]
    # Half the CPU time slows a host's links and disk too.
    right = [
        text for text in texts if wanted and (wanted in text or f"{wanted.removeprefix('node ')} " in text)
    ]
    is_found = any(text.startswith(wanted) for text in right)
    verdict = "wrong" if len(right) < len(texts) else "right" if is_found or not wanted else "nothing"
    return verdict, texts


def lab_trials(trials: int, kinds: Sequence[str], *, seconds: float, repeats: int, results: Path) -> None:
    require_lab()
    adapter = load_adapters()["pytorch"]
    python = ensure(adapter.environment(adapter.versions[0], "cpu", parallel=True), report=print).python
    counts = {kind: dict.fromkeys(("right", "nothing", "wrong", "failed"), 0) for kind in kinds}
    with NetLab(LINKED_HOSTS) as lab:
        for number in range(trials):
            for kind in kinds:
                start = time.monotonic()
                folder = results / f"{kind}-{number + 1}"
                settings = {"python": python, "folder": folder, "seconds": seconds, "repeats": repeats}
                verdict, texts = trial(kind, number, lab, **settings)
                counts[kind][verdict] += 1
                took = f"{time.monotonic() - start:.0f} s, load {os.getloadavg()[0]:.1f}"
                print(f"{kind} {number + 1}: {verdict} ({took}) {'; '.join(texts)}", flush=True)
    for kind, count in counts.items():
        print(
            f"{kind}: {count['right']} of {trials} right, {count['nothing']} nothing, {count['wrong']} wrong"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=["simulate", "lab"])
    parser.add_argument("--measurements", type=int, default=400, help="of each row of `simulate`")
    parser.add_argument("--trials", type=int, default=20, help="of each kind of `lab`")
    parser.add_argument("--kinds", default="slow,equal,link")
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "outliers")
    own = parser.parse_args()
    if own.part == "simulate":
        simulate(own.measurements)
    else:
        settings = {"seconds": own.seconds, "repeats": own.repeats, "results": own.results}
        lab_trials(own.trials, own.kinds.split(","), **settings)


if __name__ == "__main__":
    main()
