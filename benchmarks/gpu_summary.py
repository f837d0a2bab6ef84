"""What a person reads of a GPU session, made from what its stages found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PEAKS = ("peak_device_bytes", "peak_anonymous_bytes")
# Of dlperf's own summary of a run's telemetry.
TELEMETRY = (
    "sm_mhz", "power_watts", "joules_per_1000_samples", "celsius", "throttled", "throttled_by",
)  # fmt: skip


def summary(content: Mapping[str, Any]) -> str:
    """What a person reads first."""
    lines = ["# GPU session", ""]
    about = content.get("facts", {})
    if about:
        engine = about["engine"]
        name = about.get("name", "CPU: figures mean nothing")
        rates = (f"{key} {rate / 1e12:.1f} TFLOP/s" for key, rate in about["flops_per_second"].items())
        lines += [
            f"{name}, PyTorch {engine['version']}, CUDA {engine.get('cuda')}, cuDNN {engine.get('cudnn')}",
            "",
            f"Measured rates: {', '.join(rates)}",
            "",
            *(f"- float32 set to {key}: {value}" for key, value in about["fp32_arithmetic"].items()),
            "",
        ]
    if about.get("compile_error"):
        lines += [f"**torch.compile does not work here; all runs are eager:** {about['compile_error']}", ""]
    lines += table(
        ("stage", "status", "s", "reason"),
        ((row["stage"], row["status"], row["seconds"], row["reason"]) for row in content["stages"]),
    )
    if content.get("runs"):
        lines += ["## Runs", "", *table(RUN_COLUMNS, map(_run_cells, content["runs"]))]
    for title, text in (
        *((f"Alignment in {name}", text) for name, text in content.get("align", {}).items()),
        ("In turns with upstream's recipe", content.get("turns_text")),
    ):
        if text:
            lines += [f"## {title}", "", "```text", text.strip(), "```", ""]
    if "limit" in content:
        found = content["limit"]
        cells = ((probe["value"], probe["status"], peak(probe)) for probe in found["probes"])
        lines += ["## Limit", "", found["reason"], "", *table(("batch", "probe", "peak MiB"), cells)]
    if "profile" in content:
        found = content["profile"]
        step, busy = 1000 * found["step_seconds"], 1000 * found["busy_seconds"]
        launches = f"{found['launches']} launches of {found['kernels']} kernels"
        lines += [
            "## Profile of one step",
            "",
            f"{step:.1f} ms unprofiled; {launches}, together {busy:.1f} ms",
            "",
            *table(
                ("ms", "calls", "kernel"),
                (
                    (f"{1000 * row['seconds']:.2f}", row["calls"], row["name"])
                    for row in found["largest"][:10]
                ),
            ),
        ]
    return "\n".join(lines)


RUN_COLUMNS = (
    "framework", "parallelism", "precision", "batch", "classes", "compiled", "status", "samples/s",
    "model TFLOP/s", "of measured rate", "peak MiB", "allocated MiB", "SM MHz", "W", "J per 1000",
    "throttled",
)  # fmt: skip


def _run_cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    def shown(key: str, form: str, factor: float = 1.0) -> str:
        value = row.get(key)
        return "" if value is None else format(value * factor, form)

    return (
        *(
            row[key]
            for key in ("framework", "parallelism", "precision", "batch", "classes", "compiled", "status")
        ),
        shown("samples_per_second", ".1f"),
        shown("model_flops_per_second", ".2f", 1e-12),
        shown("share_of_measured_rate", ".1%"),
        peak(row["peaks"]),
        mebibytes(row["peaks"].get("peak_allocated_bytes")),
        shown("sm_mhz", ".0f"),
        shown("power_watts", ".0f"),
        shown("joules_per_1000_samples", ".1f"),
        shown("throttled", ".0%"),
    )


def peak(peaks: Mapping[str, int | None]) -> str:
    """MiB of the device or, on a CPU, of the process."""
    return next((mebibytes(peaks[name]) for name in PEAKS if peaks.get(name) is not None), "")


def mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Markdown."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return [*lines, ""]
