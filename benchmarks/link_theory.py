"""What a step must send by each parallelism, what a link takes for it, and what was measured.

For `benchmarks/shaped_links.py`; `dlperf/results/traffic.py` counts what must be sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from dlperf.plan.case import Case
from dlperf.results.traffic import all_reduced, gradient_bytes, softmax_bytes
from frameworks.common.case import case_from_dict
from frameworks.common.cost import model_cost

# Of an Ethernet frame of TCP over IPv4 with timestamps, and the standard MTU of 1500 bytes.
FRAME, PAYLOAD = 1514, 1448
NAMES = {"data": "data parallel", "model": "model parallel", "partial_fc": "Partial FC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A case on a link; medians over its runs. Seconds and bit/s; None where there is none."""

    link: str
    bits_per_second: float | None
    case: dict[str, Any]
    step_seconds: float | None
    samples_per_sec: float | None
    runs: int
    communication_seconds: float | None  # of profiled steps, in which nothing overlaps

    @property
    def nodes(self) -> int:
        nodes: int = self.case["topology"]["nodes"]
        return nodes

    @property
    def parallelism(self) -> str:
        name: str = self.case["parallelism"]
        return name


def theory(content: dict[str, Any]) -> tuple[float, float]:
    """Bytes of payload that a rank sends in a step, and receives meanwhile: gradients, softmax."""
    case, cost = Case.model_validate_json(json.dumps(content)), model_cost(case_from_dict(content))
    ranks = case.topology.world_size
    gradient = gradient_bytes(
        case, network_parameters=cost.network_parameters, classifier_parameters=cost.classifier_parameters
    )
    return all_reduced(gradient, ranks), softmax_bytes(case, members=ranks)


def link_seconds(size: float, bits_per_second: float | None) -> float:
    """How long a link takes for a payload; 0 where it is not limited."""
    return 0.0 if bits_per_second is None else size * 8 * FRAME / PAYLOAD / bits_per_second


def page(measured: Sequence[Measured], counted: dict[str, float]) -> str:
    """The whole page, Markdown."""
    return "\n".join(
        [*_opening(measured), *_bytes(measured, counted), *_steps(measured), *_scaling(measured)]
    )


def _two(measured: Sequence[Measured]) -> list[Measured]:
    return [one for one in measured if one.nodes > 1]


def _opening(measured: Sequence[Measured]) -> Iterator[str]:
    case = case_from_dict(measured[0].case)
    counts = sorted({one.runs for one in measured})
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    yield f"""\
# Links of three speeds: theory beside measurement

{case.framework} {case.version}, {case.network} with {case.num_classes} classes of {case.embedding_size}
numbers, batch {case.batch_size_per_device} a device, {case.precision}, on 1 and 2 hosts in network namespaces
of one machine, one CPU core each; good runs a case: {runs}. `sweeps/shaped_links.yaml` is
the sweep, [report.md](report.md) the report of its runs, `benchmarks/shaped_links.py` makes both.

Two cores are no cluster: this shows that what a parallelism sends decides how it scales where the link is
slow, and that dlperf's figures show it. It says nothing about a GPU. Shaping limits the rate of the cable
alone, in both directions; its latency stays that of one machine. The unshaped cable is memory, and the two
cores move its bytes beside training.
"""


def _bytes(measured: Sequence[Measured], counted: dict[str, float]) -> Iterator[str]:
    yield """\
## What a step sends

Millions of bytes that each of the two ranks sends in a step, and receives meanwhile. Theory: a ring
all-reduce of the gradients that are summed, and the exchange of a softmax whose classes are split. Counted:
what the second host's cable has sent more in a run with more steps than in one with fewer, headers, ssh and
logs included.

| | gradients summed | softmax over split classes | theory | counted | counted / theory |
|---|---:|---:|---:|---:|---:|"""
    seen = {one.parallelism: one.case for one in _two(measured)}
    for parallelism, case in seen.items():
        found = counted.get(parallelism)
        gradients, softmax = theory(case)
        total = gradients + softmax
        beside = "not counted | " if found is None else f"{found / 1e6:.2f} | {found / total:.2f}"
        yield (
            f"| {NAMES[parallelism]} | {gradients / 1e6:.2f} | {softmax / 1e6:.3f} | {total / 1e6:.2f} | "
            f"{beside} |"
        )
    yield ""


def _steps(measured: Sequence[Measured]) -> Iterator[str]:
    yield f"""\
## Seconds of a step on two hosts

The link's time is the theory's bytes, in frames of {FRAME} bytes with {PAYLOAD} of payload, at the link's
rate. A step can take no less than the larger of that and its time on the unshaped cable, where everything
overlaps, and no more than their sum, where nothing does. "Communication" was measured in some steps behind
the others, in which the engine waits for each transfer.

| | link | link's time | expected step | measured step | within | communication |
|---|---|---:|---:|---:|---|---:|"""
    unshaped = {one.parallelism: one.step_seconds for one in _two(measured) if one.bits_per_second is None}
    for one in sorted(_two(measured), key=lambda one: list(NAMES).index(one.parallelism)):
        least = unshaped.get(one.parallelism)
        took = link_seconds(sum(theory(one.case)), one.bits_per_second)
        told = "not told" if one.communication_seconds is None else f"{one.communication_seconds:.3f}"
        if one.step_seconds is None or least is None:
            expected, step, within = "", "not measured", ""
        elif one.bits_per_second is None:
            expected, step, within = "", f"{one.step_seconds:.3f}", ""
        else:
            low, high = max(took, least), took + least
            expected, step = f"{low:.3f} to {high:.3f}", f"{one.step_seconds:.3f}"
            within = _place(one.step_seconds, low, high)
        link = "" if one.bits_per_second is None else f"{took:.3f}"
        yield f"| {NAMES[one.parallelism]} | {one.link} | {link} | {expected} | {step} | {within} | {told} |"
    yield ""


def _place(value: float, low: float, high: float) -> str:
    if value < low:
        return f"{100 * (1 - value / low):.0f} % below"
    if value > high:
        return f"{100 * (value / high - 1):.0f} % above"
    return "yes"


def _scaling(measured: Sequence[Measured]) -> Iterator[str]:
    yield """\
## Scaling efficiency from one host to two

Samples/s of two hosts over twice those of one. Expected: the step of one host over the expected step above.
Model parallel and Partial FC have half of the classifier on each of two hosts, and so less to update than
one host has.

| | link | expected | measured |
|---|---|---:|---:|"""
    rates = {(one.link, one.parallelism, one.nodes): one for one in measured}
    unshaped = {one.parallelism: one.step_seconds for one in _two(measured) if one.bits_per_second is None}
    order = sorted(_two(measured), key=lambda one: list(NAMES).index(one.parallelism))
    for _, group in groupby(order, key=lambda one: one.parallelism):
        for one in group:
            single, least = rates.get((one.link, one.parallelism, 1)), unshaped.get(one.parallelism)
            if single is None or not single.samples_per_sec or not one.samples_per_sec:
                yield f"| {NAMES[one.parallelism]} | {one.link} | | not measured |"
                continue
            measured_share = one.samples_per_sec / (one.nodes * single.samples_per_sec)
            expected = ""
            if one.bits_per_second is not None and single.step_seconds is not None and least is not None:
                took = link_seconds(sum(theory(one.case)), one.bits_per_second)
                bounds = (single.step_seconds / (took + least), single.step_seconds / max(took, least))
                expected = " to ".join(f"{100 * bound:.0f} %" for bound in bounds)
            yield f"| {NAMES[one.parallelism]} | {one.link} | {expected} | {100 * measured_share:.0f} % |"
    yield ""
