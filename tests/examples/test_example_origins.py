"""A framework from a wheel of the user's own and from an index, trained beside its usual version."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from uv import find_uv_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "examples" / "autograd"
PUBLISHED = "1.8.0"
INSTALLED = """
import autograd, importlib.metadata, pathlib
print(pathlib.Path(autograd.__file__).parents[1])
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder over http, as `python -m http.server` serves it."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rebuilt(site: Path, folder: Path, version: str) -> Path:
    """A wheel of the installed Autograd under another version, as a build of one's own would be."""
    folder.mkdir(parents=True)
    info = f"autograd-{version}.dist-info"
    wheel = folder / f"autograd-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted((site / "autograd").rglob("*.py")):
            archive.write(path, path.relative_to(site))
        metadata = f"Metadata-Version: 2.1\nName: autograd\nVersion: {version}\nRequires-Dist: numpy\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "autograd/__init__.py,,\n")
    return wheel


@pytest.mark.slow
@pytest.mark.engine
def test_a_wheel_and_an_index_are_versions_beside_the_published_one(tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--target", site, EXAMPLE], check=True
    )
    environ = os.environ | {"PYTHONPATH": str(site), "DLPERF_CACHE": str(tmp_path / "cache")}

    def dlperf(*arguments: str) -> str:
        command = [sys.executable, "-m", "dlperf", *arguments]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    python = dlperf("env", "create", f"autograd=={PUBLISHED}").strip()
    installed = subprocess.run([python, "-c", INSTALLED], capture_output=True, text=True, check=True).stdout
    rebuilt(Path(installed.strip()), tmp_path / "dist", f"{PUBLISHED}.post1")
    rebuilt(Path(installed.strip()), tmp_path / "simple" / "autograd", "1.9.0.dev20260101")
    with served(tmp_path) as url:
        sweep = yaml.safe_load((EXAMPLE / "sweep.yaml").read_text())
        sweep["frameworks"] = [
            f"autograd=={PUBLISHED}",
            f"autograd @ dist/autograd-{PUBLISHED}.post1-py3-none-any.whl",
            {"name": "autograd", "version": "1.9.0.dev20260101", "index": f"{url}/simple"},
        ]
        (tmp_path / "builds.yaml").write_text(yaml.safe_dump(sweep))
        dlperf("run", "builds.yaml", "-S", "measure.max_interference=1")  # beside other tests
    rows = json.loads(dlperf("results", "results/builds", "--format", "json"))
    assert ["ok"] * 3 == [row["status"] for row in rows]
    labels = sorted(row["version"].rstrip("0123456789abcdef") for row in rows)
    assert [PUBLISHED.rstrip("0"), "1.8.0.post1+wheel.", "1.9.0.dev20260101+index."] == labels
    environments = [
        json.loads(path.read_text())
        for path in (tmp_path / "results" / "builds").glob("runs/*/r1/environment.json")
    ]
    assert {PUBLISHED, f"{PUBLISHED}.post1", "1.9.0.dev20260101"} == {
        one["packages"]["autograd"] for one in environments
    }
