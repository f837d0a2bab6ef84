"""The settings that a training program prints before it trains, as far as they say what was run.

Command lines, `Namespace(...)`, `key = value` and `key: value` lines: known keys are looked for, not forms.
"""

from __future__ import annotations

import re

# What the programs call it -> what it is called here.
_KEYS = {
    "batch_size_per_device": "batch_size_per_device",
    "per_batch_size": "batch_size_per_device",
    "batch_size": "batch_size",
    "num_nodes": "nodes",
    "node_num": "nodes",
    "nnodes": "nodes",
    "device_num_per_node": "devices_per_node",
    "gpu_num_per_node": "devices_per_node",
    "nproc_per_node": "devices_per_node",
    "ctx_num": "devices_per_node",
    "gpu num": "devices_per_node",
    "world_size": "world_size",
    "num_classes": "num_classes",
    "sample_ratio": "sample_ratio",
    "sample_rate": "sample_ratio",
    "network": "network",
    "dataset": "dataset",
    "use_fp16": "fp16",
    "fp16": "fp16",
    "model_parallel": "model_parallel",
    "partial_fc": "partial_fc",
}
_NAMES = "|".join(sorted(map(re.escape, _KEYS), key=len, reverse=True)).encode()
_SETTING = re.compile(
    rb"(?<![\w.])(?:--)?(?P<key>" + _NAMES + rb")['\"]?(?:[ \t]*[:=][ \t]*|[ \t]+)"
    rb"['\"]?(?P<value>[A-Za-z0-9][\w.+-]*)"
)
_COUNTS = frozenset(
    {"batch_size_per_device", "batch_size", "nodes", "devices_per_node", "world_size", "num_classes"}
)
_SWITCHES = frozenset({"fp16", "model_parallel", "partial_fc"})
_ON, _OFF = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})
_MOST_LINES = 5000
_MOST_DIGITS = 18  # no count of anything has more, and Python reads no number of thousands


class Preamble:
    """Collects settings from the lines before a log's first record; the first one of a name counts."""

    def __init__(self) -> None:
        self.settings: dict[str, tuple[str, int]] = {}  # name -> value, line
        self._lines = 0

    def feed(self, line: int, text: bytes) -> None:
        """Look at one line."""
        self._lines += 1
        if self._lines > _MOST_LINES:
            return
        for match in _SETTING.finditer(text):
            name = _KEYS[match["key"].decode()]
            value = _value(name, match["value"].decode())
            if value is not None:
                self.settings.setdefault(name, (value, line))


def _value(name: str, text: str) -> str | None:
    """The value in one spelling; None where it is none of this setting."""
    if name in _COUNTS:
        return str(int(text)) if text.isdigit() and len(text) <= _MOST_DIGITS and int(text) > 0 else None
    if name in _SWITCHES:
        lower = text.lower()
        return "1" if lower in _ON else "0" if lower in _OFF else None
    if name == "sample_ratio":
        try:
            return text if 0 < float(text) <= 1 else None
        except ValueError:
            return None
    return text.rstrip(".")
