"""A measurement of nodes as tables and as a page: devices and disks, links as a matrix, what is worse."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from dlperf.report.markdown import markdown_writer, table
from dlperf.report.numbers import DASH, NOT_KNOWN
from dlperf.report.text import Cells, Code, Column, Inline, Table, number, say, table_of
from dlperf.results.measurement import Measurement, Series
from dlperf.results.outliers import Judgement

_TITLES: dict[str, Inline] = {
    "matrix_fp32": say("matrix rate fp32"),
    "matrix_fp16": say("matrix rate fp16"),
    "matrix_bf16": say("matrix rate bf16"),
    "memory_bandwidth": say("memory bandwidth"),
    "host_to_device": say("host-to-device copy"),
    "disk_write": say("disk write"),
    "disk_read": say("disk read"),
    "data_read": say("data read"),
}
_LINKS = {
    "link_bandwidth": say("Bandwidth of each link (median)"),
    "link_latency": say("Latency of each link (median)"),
}
_SHARED = "/dev/shm"  # noqa: S108  a name in a table
# More nodes make a matrix that no page holds; the findings name the links that matter.
_MOST_NODES = 16


def measurement_tables(measurement: Measurement) -> tuple[Table, ...]:
    """Devices with their nodes, the nodes' states, and a matrix per figure of links."""
    return (_devices(measurement), _states(measurement), *_links(measurement))


def _devices(measurement: Measurement) -> Table:
    there = [name for name in _TITLES if any(one.metric == name for one in measurement.series)]
    of_devices = [name for name in there if not name.endswith(("_write", "_read"))]
    rows: list[Cells] = []
    for node in measurement.nodes:
        own = [one for one in measurement.series if one.node == node.name and one.peer is None]
        devices = list(dict.fromkeys(one.device for one in own if one.device is not None))
        for device in devices:
            cells: dict[Inline | Column, Inline] = {say("node"): node.name, say("device"): device}
            for name in there:
                wanted = device if name in of_devices else None
                is_first = device == devices[0] or name in of_devices
                series = [one for one in own if (one.metric, one.device) == (name, wanted)]
                cells[number(_TITLES[name])] = _median(series) if is_first else ""
            rows.append(cells)
    return table_of(say("Devices and disks (median of the repeats)"), rows)


def _median(series: Sequence[Series]) -> Inline:
    median = series[0].median if series else None
    return DASH if median is None else series[0].ability.in_words(median)


def _states(measurement: Measurement) -> Table:
    def row(name: str) -> Cells:
        node = next(one for one in measurement.nodes if one.name == name)
        shared, locked, clock = node.shared_memory_bytes, node.memlock_bytes, node.clock_seconds
        return {
            say("node"): name,
            say("hardware"): node.facts.hardware,
            number(say("threads")): NOT_KNOWN if node.threads is None else str(node.threads),
            number(say("clock ahead")): DASH if clock is None else f"{clock:+.3f} s",
            number(say("memory that may be locked")): say("no limit") if locked is None else _size(locked),
            number(_SHARED): DASH if shared is None else _size(shared),
            say("disk"): node.file_system or NOT_KNOWN,
        }

    return table_of(say("Nodes"), [row(node.name) for node in measurement.nodes])


def _size(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def _links(measurement: Measurement) -> list[Table]:
    measured = {node.name for node in measurement.nodes}
    names = [*(node.name for node in measurement.nodes), *measurement.lost]
    if len(measured) < 2 or len(names) > _MOST_NODES:  # noqa: PLR2004  one has no link
        return []

    def cell(medians: Mapping[frozenset[str | None], Inline], one: str, other: str) -> Inline:
        if one != other and not {one, other} <= measured:
            return say("not measured")
        return medians.get(frozenset((one, other)), "")

    tables = []
    for metric, caption in _LINKS.items():
        medians = {
            frozenset((one.node, one.peer)): _median([one])
            for one in measurement.series
            if one.metric == metric
        }
        rows = [
            {say("node"): one, **{number(other): cell(medians, one, other) for other in names}}
            for one in names
        ]
        tables.append(table_of(caption, rows))
    return tables


def headline(nodes: int, judgement: Judgement) -> str:
    """The answer in one line."""
    what = f"{nodes} nodes" if nodes > 1 else "1 node"
    missing = ", ".join(str(finding.unit) for finding in judgement.missing)
    but = f"; not measured: {missing}" if missing else ""
    if judgement.findings:
        units = dict.fromkeys(str(finding.unit) for finding in judgement.findings)
        return f"{what}: worse than it should be: {', '.join(units)}{but}"
    if not judgement.tests:
        return f"{what}: nothing could be judged{but}"
    return f"{what}: no device, node or link is worse than it should be ({judgement.tests} tests){but}"


def measurement_page(
    measurement: Measurement, judgement: Judgement, *, source: Path, language: Literal["en", "zh"]
) -> str:
    """The measurement as Markdown."""
    from dlperf.report.render import messages  # noqa: PLC0415  with charts, which tables do without

    write = markdown_writer(messages(language))
    title = say("Measurement of {cluster}", cluster=measurement.cluster)
    method = say(
        "Measured at {time} with PyTorch {engine} over {transport}, repeated {repeats} times in turns, each "
        "figure for {seconds} s. From {source}.",
        time=measurement.started_at,
        engine=measurement.engine,
        transport=measurement.transport,
        repeats=measurement.repeats,
        seconds=f"{measurement.seconds:g}",
        source=Code(str(source)),
    )
    parts = [
        f"# {write(title)}",
        f"**{write(headline(len(measurement.nodes) + len(measurement.lost), judgement))}**",
    ]
    if judgement.findings or judgement.missing:
        said = (*judgement.findings, *judgement.missing)
        parts.append("\n".join(f"- {write(str(finding))}" for finding in said))
    parts += [write(note) for note in judgement.notes]
    for content in measurement_tables(measurement):
        parts += [f"## {write(content.caption)}", table(content, write)]
    for node in measurement.nodes:
        if node.topology:
            lines = node.topology.replace("`", "'").splitlines()
            parts += [f"## {write(say('Topology of {node}', node=node.name))}", "\n".join(_code_block(lines))]
    parts.append(write(method))
    return "\n\n".join(parts) + "\n"


def _code_block(lines: Sequence[str]) -> list[str]:
    """As it is, indented: no fence that the text itself could close."""
    return [f"    {''.join(char for char in line if char.isprintable())}" for line in lines if line.strip()]
