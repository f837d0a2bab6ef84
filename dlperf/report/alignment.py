"""Whether the frameworks of a table are proven to compute the same function, and the figures of the proof."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dlperf.align.certificate import Certificate, Figures, Pair, load_certificate
from dlperf.errors import UserError
from dlperf.layout import CERTIFICATE_NAMES
from dlperf.report.comparison import Comparison
from dlperf.report.text import Cells, Inline, Table, Text, joined, number, plural, say, table_of
from dlperf.results.store import Skipped


class Proof(NamedTuple):
    """One certificate as a report shows it: its verdict and the largest relative differences of each pair."""

    title: Text
    verdict: str
    table: Table


def read_certificates(
    sweeps: Iterable[Path], *, given: Sequence[Path]
) -> tuple[tuple[Certificate, ...], tuple[Skipped, ...]]:
    """The given certificates (UserError for one that cannot be read), else those beside the results.

    Those beside the results that cannot be read come second.
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


def alignment_line(comparison: Comparison, certificates: Sequence[Certificate]) -> Text:
    """One line on a table: aligned, not aligned or not proven, and which frameworks no certificate covers."""
    if comparison.published:
        return say("**not proven (the source published no evidence)**")
    if comparison.sample.source is not None:
        # All of a table are original programs then.
        return say("**not alignable: original programs, which take no weights and no batches of dlperf**")
    workload, parallelism = comparison.sample.workload, comparison.sample.parallelism
    whole_on_one, spread = None, []
    for certificate in certificates:
        # With frozen norms it is another function; in fp16 and bf16 the bounds are too wide for a proof.
        norms = {certificate.case.workload.batch_norm, workload.batch_norm}
        mixed = certificate.case.precision != "fp32"
        if certificate.experiment != workload.experiment or len(norms) > 1 or mixed:
            continue
        modes = {participant.parallelism for participant in certificate.participants}  # None: on one device
        if modes <= {None} and (certificate.case.sample_ratio or 1.0) == 1 and whole_on_one is None:
            whole_on_one = certificate
        if parallelism in modes:
            spread.append(certificate)
    line = _of_certificate(whole_on_one, comparison)
    if all(row.nodes * row.devices_per_node == 1 for row in comparison.rows):
        return line
    over: Inline = joined((_of_certificate(one, comparison) for one in spread), "; ")
    if not spread:
        over = say(
            "**not proven (make a certificate: dlperf align {experiment} --parallelism {parallelism} "
            "--topology 1n2g)**",
            experiment=workload.experiment,
            parallelism=parallelism,
        )
    return say("one rank: {line}; several ranks: {over}", line=line, over=over)


def _of_certificate(certificate: Certificate | None, comparison: Comparison) -> Text:
    workload = comparison.sample.workload
    if certificate is None:
        return say(
            "**not proven (make a certificate: dlperf align {experiment})**", experiment=workload.experiment
        )
    day = certificate.created_at[:10]
    if certificate.experiment_hash != workload.content_hash:
        return say(
            "**not proven: the experiment changed since it was aligned on {day} (again: dlperf align "
            "{experiment})**",
            day=day,
            experiment=workload.experiment,
        )
    if not certificate.passed:
        return say("**not aligned: {verdict}**", verdict=certificate.verdict)
    names = {participant.framework for participant in certificate.participants}
    variants = dict.fromkeys(f"{variant.framework}=={variant.version}" for variant in comparison.variants)
    line = say(
        "aligned: {verdict} ({names}; {day})",
        verdict=certificate.verdict,
        names=", ".join(participant.name for participant in certificate.participants),
        day=day,
    )
    strangers = ", ".join(name for name in variants if name not in names)
    if strangers:
        return say("{line}; **not proven for {strangers}**", line=line, strangers=strangers)
    return line


def proofs(certificates: Iterable[Certificate]) -> tuple[Proof, ...]:
    """The tables behind the lines."""
    caption = say("Largest relative differences")
    return tuple(
        Proof(
            say(
                "{experiment}, {steps}, {day}",
                experiment=_named(certificate),
                steps=plural(certificate.steps, "step"),
                day=certificate.created_at[:10],
            ),
            certificate.verdict,
            table_of(caption, map(_pair, (*certificate.pairs, *certificate.reference))),
        )
        for certificate in certificates
    )


def _named(certificate: Certificate) -> str:
    precision = certificate.case.precision
    return certificate.experiment if precision == "fp32" else f"{certificate.experiment} ({precision})"


def _pair(pair: Pair) -> Cells:
    def cell(difference: Callable[[Figures], float]) -> Inline:
        return say("not compared") if pair.figures is None else f"{difference(pair.figures):.1e}"

    return {
        say("pair"): f"{pair.first}, {pair.second}",
        say("passed"): say("yes") if pair.passed else say("no"),
        number(say("embeddings")): cell(lambda figures: figures.embeddings),
        number(say("loss, step 1")): cell(lambda figures: figures.losses[0]),
        number(say("loss, all steps")): cell(lambda figures: max(figures.losses)),
        number(say("gradient norms")): cell(lambda figures: figures.gradient_norm.difference),
        number(say("parameters")): cell(lambda figures: figures.parameters.difference),
        number(say("statistics")): cell(lambda figures: figures.statistics.difference),
        say("what differs"): pair.hint or pair.error or pair.first_to_differ or "",
    }
