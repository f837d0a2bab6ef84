"""The framework of docs/adding-a-framework.md, installed and run as the page says."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "autograd"
WRAPPED = ROOT / "tests" / "thirdparty" / "dlperf_pixels"
PAGE = ROOT / "docs" / "adding-a-framework.md"
BLOCK = re.compile(r"```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a dlperf beside which the example is installed."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--target", site, EXAMPLE], check=True
    )
    return os.environ | {"PYTHONPATH": str(site), "DLPERF_HOST_LOCK": str(site / "host.lock")}


def dlperf(environ: dict[str, str], *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dlperf", *map(str, arguments)]
    return subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)


def first_loss(results: Path, framework: str) -> float:
    (steps,) = results.glob(f"runs/{framework}-*/r1/steps.csv")
    with steps.open(newline="") as lines:
        return float(next(csv.DictReader(lines))["loss"])


def test_the_page_shows_the_code_that_runs() -> None:
    sources = [*EXAMPLE.rglob("*"), *WRAPPED.rglob("*")]
    files = "\n".join(path.read_text() for path in sources if path.suffix in (".py", ".toml"))
    blocks = [found["text"] for found in BLOCK.finditer(PAGE.read_text()) if found["language"] != "console"]
    assert len(blocks) >= 6
    assert [] == [block for block in blocks if block not in files]


def test_the_plan_names_what_it_cannot_do(environ: dict[str, str], tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text((EXAMPLE / "sweep.yaml").read_text().replace("1n1g", "[1n1g, 1n2g]"))
    planned = dlperf(environ, "plan", sweep, folder=tmp_path)
    assert 0 == planned.returncode, planned.stderr
    assert "Autograd has no communication between processes" in planned.stdout


@pytest.mark.slow
@pytest.mark.engine
def test_it_trains_the_same_function_as_pytorch(environ: dict[str, str], tmp_path: Path) -> None:
    beside_other_tests = ("-S", "measure.max_interference=1")
    ran = dlperf(environ, "run", EXAMPLE / "sweep.yaml", *beside_other_tests, folder=tmp_path)
    assert 0 == ran.returncode, ran.stderr
    results = tmp_path / "results" / "sweep"
    listed = dlperf(environ, "results", results, "--format", "json", folder=tmp_path)
    rows = json.loads(listed.stdout)
    assert ["autograd", "pytorch"] == sorted(row["framework"] for row in rows)
    assert all(row["status"] == "ok" and row["samples_per_sec"] > 0 for row in rows)
    assert first_loss(results, "pytorch") == pytest.approx(first_loss(results, "autograd"), rel=1e-5)
    reported = dlperf(environ, "report", results, "--out", results / "report.md", folder=tmp_path)
    assert 0 == reported.returncode, reported.stderr
    assert "Autograd" in (results / "report.md").read_text()
