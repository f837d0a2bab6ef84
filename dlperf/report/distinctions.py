"""What can keep two cases out of one table, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.plan.case import bytes_text
from dlperf.report.numbers import iterations, or_not_known
from dlperf.report.text import joined, say

if TYPE_CHECKING:
    from dlperf.plan.case import Case
    from dlperf.report.text import Inline, Text
    from dlperf.results.cases import CaseFigures


PARALLELISMS = {
    "data": say("data parallel"),
    "model": say("model parallel"),
    "partial_fc": say("Partial FC"),
}


def sampled_parallelism(parallelism: str, sample_ratio: float | None = None) -> Inline:
    """Such as `Partial FC 0.1`."""
    words = PARALLELISMS[parallelism]
    return words if sample_ratio is None else joined((words, f"{sample_ratio:g}"), " ")


def distinctions(figure: CaseFigures) -> dict[Text, Inline]:
    """Every such thing with its value."""
    case = figure.case
    return {
        say("threads a device"): or_not_known(figure.threads_per_device),
        say("hardware"): figure.hardware,
        say("device"): case.device,
        say("memory budget"): memory_budget(case),
        say("iterations"): iterations(case.measure.warmup_iterations, figure.measured_iterations),
        say("seed"): or_not_known(figure.seed),
        say("workload"): canonical_workload(figure),
        say("sweep"): figure.sweep.name,
    }


def memory_budget(case: Case) -> Inline:
    """What a device of the CPU may take, as people write it."""
    return say("none") if case.memory_bytes is None else bytes_text(case.memory_bytes)


def canonical_workload(figure: CaseFigures) -> Text:
    """The workload's own content, short: two experiment files of one name can differ."""
    work = figure.case.workload
    loss = work.loss
    return say(
        "{network}, head {head}, embedding {embedding}, {loss}, learning rate {rate}, weight decay {decay} "
        "({kind}), {dataset} ({data})",
        network=work.network,
        head=work.head,
        embedding=work.embedding_size,
        loss=f"{loss.kind} s={loss.scale:g} m1={loss.m1:g} m2={loss.m2:g} m3={loss.m3:g}",
        rate=f"{work.schedule.learning_rate:g}",
        decay=f"{work.optimizer.weight_decay:g}",
        kind=work.optimizer.decay,
        dataset=work.dataset,
        data=figure.data or say("data not known"),
    )
