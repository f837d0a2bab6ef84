"""Parallelisms against the speed of the link: `python benchmarks/shaped_links.py`. Needs root, for the lab.

Two hosts in network namespaces, each with its own sshd and one CPU of this machine to itself, train the
sweep `shaped_links` over ssh: with the cable between them as it is, and with both ends of it limited to
1 Gbit/s and to 100 Mbit/s (a token bucket). Then the bytes that a step sends are counted at the second host's
cable. Results go to results/shaped_links, the report to reports/shaped_links, where theory.md has theory
beside measurement.

Shaping limits the rate alone: latency stays that of one machine. Options that this program does not know go
to `dlperf run`, such as `-S measure.measured_iterations=3`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from labs import ROOT, NetLab, cluster_file, require_lab, tool  # beside this file
from link_theory import Measured, page

from dlperf.adapters.registry import load_adapters
from dlperf.environments import ensure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labs import Host

SWEEP = ROOT / "sweeps" / "shaped_links.yaml"
# Label -> rate of tc and in bit/s; the label stands in the results as a part of the hardware.
LINKS: dict[str, tuple[str | None, float | None]] = {
    "unshaped": (None, None),
    "1 Gbit/s": ("1gbit", 1e9),
    "100 Mbit/s": ("100mbit", 1e8),
}
FOLDER = "/root/work"  # on the hosts
# Of a case that is run twice to count bytes: what differs is steps alone.
FEW, MORE = 2, 6


def folder_of(results: Path, label: str) -> Path:
    return results / (LINKS[label][0] or label)


def framework_here(name: str) -> dict[str, str]:
    """A sweep's entry for the environment of this machine, which the hosts see in the same place."""
    adapter = load_adapters()[name]
    environment = ensure(adapter.environment(adapter.versions[0], "cpu", parallel=True), report=print)
    return {"name": name, "version": adapter.versions[0], "python": str(environment.python)}


def sweep_file(folder: Path, framework: dict[str, str]) -> Path:
    content = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
    content["frameworks"] = [framework]
    path = folder / SWEEP.name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def both_hosts(folder: Path, lab: NetLab, label: str) -> Path:
    path = folder / f"{folder_of(folder, label).name}.yaml"
    return cluster_file(path, lab, 2, link=label, folder=FOLDER)


def dlperf(*words: str, output: bool = False) -> str:
    """Run dlperf; its exit code must be 0."""
    command = [sys.executable, "-m", "dlperf", *words]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if output else None)
    return done.stdout or ""


def shape(lab: NetLab, rate: str | None) -> None:
    for host in lab.hosts:
        host.shape(rate)


def run(
    lab: NetLab, work: Path, *, results: Path, framework: dict[str, str], repeats: int, more: Sequence[str]
) -> None:
    """All cases on all links, one repeat of everything after the other."""
    sweep = sweep_file(work, framework)
    for repeat in range(1, repeats + 1):
        for label, (rate, _) in LINKS.items():
            shape(lab, rate)
            words = ["run", str(sweep), "--cluster", str(both_hosts(work, lab, label))]
            words += ["--results", str(folder_of(results, label)), "--repeats", str(repeat), *more]
            dlperf(*words)
    shape(lab, None)


def sent_bytes(host: Host) -> int:
    """What the host has sent over its cable since it was made."""
    (link,) = json.loads(tool("ip", "-n", host.netns, "-json", "-stats", "link", "show", "eth0"))
    return int(link["stats64"]["tx"]["bytes"])


def counted(lab: NetLab, work: Path, *, framework: dict[str, str]) -> dict[str, float]:
    """Bytes that the second host sends in a step of each parallelism, ssh and all.

    The same case with few and with more steps: the start, which sends the first weights, is in both.
    """
    sweep, cluster = sweep_file(work, framework), both_hosts(work, lab, "unshaped")
    parallelisms = yaml.safe_load(sweep.read_text())["parallelism"]
    found: dict[str, float] = {}
    for parallelism in parallelisms:
        sent = []
        for steps in (FEW, MORE):
            before = sent_bytes(lab.hosts[1])
            words = ["run", str(sweep), "--cluster", str(cluster), "--repeats", "1"]
            words += ["--only", f"parallelism={parallelism}", "--only", "nodes=2"]
            words += ["-S", f"measure.measured_iterations={steps}"]
            dlperf(*words, "--results", str(work / f"{parallelism}_{steps}"))
            sent.append(sent_bytes(lab.hosts[1]) - before)
        # Behind the measured steps come as many profiled ones, at most 3.
        found[parallelism] = (sent[1] - sent[0]) / (MORE + min(3, MORE) - FEW - min(3, FEW))
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(dlperf("results", str(folder), "--format", "json", output=True))
    return rows


def communication_seconds(folder: Path, case_id: str) -> float | None:
    """Of the profiled steps, in which nothing overlaps; of the first good run."""
    for path in sorted((folder / "runs" / case_id).glob("r*/result.json")):
        seconds = json.loads(path.read_text())["engine"].get("phase_seconds", {})
        if "communication" in seconds:
            return float(seconds["communication"])
    return None


def measured(results: Path) -> list[Measured]:
    found = []
    for label, (_, bits) in LINKS.items():
        folder = folder_of(results, label)
        for row in rows_of(folder):
            (case_file, *_) = sorted((folder / "runs" / row["case_id"]).glob("r*/case.json"))
            found.append(
                Measured(
                    link=label,
                    bits_per_second=bits,
                    case=json.loads(case_file.read_text()),
                    step_seconds=row["step_seconds_median"],
                    samples_per_sec=row["samples_per_sec"],
                    runs=row["runs_ok"],
                    communication_seconds=communication_seconds(folder, row["case_id"]),
                )
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--framework", default="pytorch")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "shaped_links")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "shaped_links")
    parser.add_argument("--only", choices=["measure", "count", "report"], help="one of the three parts")
    own, more = parser.parse_known_args()
    if own.only != "report":
        require_lab()
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:  # noqa: PLR2004  hosts
            raise SystemExit("each of the two hosts needs a CPU of its own")
        own.results.mkdir(parents=True, exist_ok=True)
        framework = framework_here(own.framework)  # of this user, before the lab's home folder is taken
        with NetLab(2, cpus=tuple(cpus[:2])) as lab:
            work = lab.home
            os.environ["HOME"] = str(lab.home)
            if own.only != "count":
                run(lab, work, results=own.results, framework=framework, repeats=own.repeats, more=more)
            if own.only != "measure":
                sent = counted(lab, work, framework=framework)
                (own.results / "bytes.json").write_text(json.dumps(sent, indent=1) + "\n")
    if own.only in {None, "report"}:
        own.out.mkdir(parents=True, exist_ok=True)
        folders = [str(folder_of(own.results, label)) for label in LINKS]
        dlperf("report", *folders, "--out", str(own.out / "report.md"))
        sent = json.loads((own.results / "bytes.json").read_text())
        (own.out / "theory.md").write_text(page(measured(own.results), sent), encoding="utf-8")


if __name__ == "__main__":
    main()
