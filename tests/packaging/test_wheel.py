"""The wheel works on its own: installed in a fresh environment, in an empty folder, without this checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
SHIPPED = ("frameworks", "experiments", "sweeps", "templates", "docs")

pytestmark = pytest.mark.slow


def uv(*arguments: object) -> None:
    subprocess.run([find_uv_bin(), *map(str, arguments), "--quiet"], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--out-dir", folder, ROOT)
    (built,) = folder.glob("dlperf-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    uv("venv", "--python", sys.executable, "--no-project", folder)
    uv("pip", "install", "--python", folder / "bin" / "python", wheel)
    return folder / "bin"


def tracked(folder: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.mark.parametrize("folder", SHIPPED)
def test_holds_what_a_checkout_holds(folder: str, wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = [f"dlperf/_shipped/{path}" for path in tracked(folder)]
    assert files
    assert [] == [path for path in files if path not in inside]


def test_holds_the_package_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"dlperf"} == {top for top in tops if not top.endswith(".dist-info")}


@pytest.mark.parametrize("sweep", ["sweeps/r100_emore.yaml", "r100_emore", "sweeps/quickstart.yaml"])
def test_plans_a_shipped_sweep_in_an_empty_folder(sweep: str, installed: Path, tmp_path: Path) -> None:
    planned = subprocess.run(
        [installed / "dlperf", "plan", sweep], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 0 == planned.returncode, planned.stderr
    assert "mxnet" in planned.stdout
    assert [] == list(tmp_path.iterdir())


@pytest.mark.engine
def test_leads_from_init_to_a_report_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """What a new user does first; one run per framework, as the figures are not looked at."""

    def dlperf(*words: str) -> str:
        done = subprocess.run(
            [installed / "dlperf", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    assert dlperf("init").endswith("Next: dlperf plan mine\n")
    assert "2 runnable" in dlperf("plan", "mine")
    settings = ("-S", "measure.repeats=1", "-S", "measure.max_interference=1")
    ended = dlperf("run", "mine", *settings)
    assert "mine: 2 of 2 runs: 2 ok" in ended
    assert ended.endswith("Next: dlperf report results/mine --out report.md\n")
    assert ": 2 of 2 runs done (2 ok)\n" in dlperf("status")
    dlperf("report", "results/mine", "--out", "report.md")
    assert "| mxnet 1.9.1" in (tmp_path / "report.md").read_text().replace("MXNet", "mxnet")


def test_reports_published_figures_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    name = "published:insightface_v100_2021"
    done = subprocess.run(
        [installed / "dlperf", "report", name, "--out", "report.md"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    committed = ROOT / "reports" / "insightface_v100_2021" / "report.md"
    assert committed.read_text() == (tmp_path / "report.md").read_text()


def test_finds_what_ships_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    source = "from dlperf.files import shipped_root; print(shipped_root())"
    found = subprocess.run(
        [installed / "python", "-c", source], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    root = Path(found.stdout.strip())
    assert installed.parent in root.parents
    assert (root / "frameworks" / "supervisor.py").is_file()
