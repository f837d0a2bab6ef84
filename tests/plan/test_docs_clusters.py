"""docs/clusters.md shows files that load, and names every key that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlperf.plan.cluster import ClusterFile, NodeEntry, load_cluster

PAGE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_its_files_load(block: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(block)
    assert load_cluster("c.yaml", folder=tmp_path).nodes


def test_its_tables_name_every_key() -> None:
    cells = re.findall(r"^\| (`[^|]*) \|", PAGE, flags=re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}
    known = {*NodeEntry.model_fields, *ClusterFile.model_fields}
    assert known - {"nodes", "transport", "notes"} == named - {"nodes"}
