"""Whether the frameworks of a table are proven to compute the same function, and the figures of the proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.align.certificate import CERTIFICATE_NAMES, certificate_line, load_certificate
from dlperf.errors import UserError
from dlperf.report.markdown import Column, Markdown, Table, fill
from dlperf.results.store import Skipped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from dlperf.align.certificate import Certificate, Pair
    from dlperf.report.comparison import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One certificate as a report shows it: its verdict and the largest relative differences of each pair."""

    title: str
    verdict: str
    table: Table


def read_certificates(
    sweeps: Iterable[Path], *, given: Sequence[Path]
) -> tuple[tuple[Certificate, ...], tuple[Skipped, ...]]:
    """The given certificates; without any, those beside the results, and those that cannot be read.

    Raises:
        UserError: a given file cannot be read.
    """
    if given:
        return tuple(load_certificate(path) for path in given), ()
    certificates, skipped = [], []
    for path in (path for sweep in sweeps for path in sorted(sweep.glob(CERTIFICATE_NAMES))):
        try:
            certificates.append(load_certificate(path))
        except UserError as error:
            skipped.append(Skipped(path=path, why=str(error).removeprefix(f"{path}: ")))
    return tuple(certificates), tuple(skipped)


def alignment_line(comparison: Comparison, certificates: Sequence[Certificate]) -> Markdown:
    """One line on a table: aligned, not aligned or not proven, and whom of its frameworks nobody aligned."""
    workload = comparison.sample.workload
    own = [one for one in certificates if one.experiment == workload.experiment]
    on_one = next((one for one in own if not any(who.parallelism for who in one.contenders)), None)
    line = _of_certificate(on_one, comparison)
    if all(row.nodes * row.devices_per_node == 1 for row in comparison.rows):
        return line
    parallelism = comparison.sample.parallelism
    spread = [one for one in own if any(who.parallelism == parallelism for who in one.contenders)]
    over = Markdown("; ".join(_of_certificate(one, comparison) for one in spread)) or fill(
        "**not proven (make a certificate: dlperf align {experiment} --parallelism {parallelism} "
        "--topology 1n2g)**",
        experiment=workload.experiment,
        parallelism=parallelism,
    )
    return Markdown(f"on one device {line}; on several devices {over}")


def _of_certificate(certificate: Certificate | None, comparison: Comparison) -> Markdown:
    line = certificate_line(certificate, comparison.sample.workload)
    if not line.startswith("aligned"):
        return fill("**{line}**", line=line)
    names = {contender.framework for contender in certificate.contenders} if certificate else set()
    arms = dict.fromkeys(f"{arm.framework}=={arm.version}" for arm in comparison.arms)
    strangers = ", ".join(name for name in arms if name not in names)
    if strangers:
        return fill("{line}; **not proven for {strangers}**", line=line, strangers=strangers)
    return fill("{line}", line=line)


def proofs(certificates: Iterable[Certificate]) -> tuple[Proof, ...]:
    """The tables behind the lines."""
    return tuple(
        Proof(
            title=f"{certificate.experiment}, {certificate.steps} steps, {certificate.created_at[:10]}",
            verdict=certificate.verdict,
            table=_pairs(certificate),
        )
        for certificate in certificates
    )


def _pairs(certificate: Certificate) -> Table:
    headings = ("embeddings", "loss, step 1", "loss, all steps", "gradient norms", "parameters", "statistics")
    columns = (
        Column(heading="pair"),
        Column(heading="passed"),
        *(Column(heading=heading, numbers=True) for heading in headings),
        Column(heading="what differs"),
    )
    rows = [_pair(pair) for pair in (*certificate.pairs, *certificate.reference)]
    return Table(columns=columns, rows=tuple(rows))


def _pair(pair: Pair) -> tuple[str, ...]:
    figures = pair.figures
    differences = (
        (
            figures.embeddings,
            figures.losses[0],
            max(figures.losses),
            figures.gradient_norm.difference,
            figures.parameters.difference,
            figures.statistics.difference,
        )
        if figures
        else ()
    )
    return (
        f"{pair.first}, {pair.second}",
        "yes" if pair.passed else "no",
        *([f"{value:.1e}" for value in differences] or ["not compared"] * 6),
        pair.culprit or pair.error or pair.first_to_differ or "",
    )
