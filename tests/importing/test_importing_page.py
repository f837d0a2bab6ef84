"""docs/logs.md: its dialect works as written, its table of dialects is complete, its commands exist."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from log_makers import DIALECTS

from dlperf.cli import main
from dlperf.importing.archives import Log
from dlperf.importing.dialects.base import Dialect
from dlperf.importing.reader import LogReader

PAGE = (Path(__file__).parents[2] / "docs/logs.md").read_text()
COMMANDS = [line.split() for line in PAGE.splitlines() if line.startswith("    dlperf ")]


def test_the_dialect_of_the_page_reads_its_line() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "docs/logs.md", "exec"), names)  # noqa: S102  it is our own page
    dialect = names["DIALECT"]
    assert isinstance(dialect, Dialect)
    text = b"[1,3]<stdout>:step 7 loss 1e-05 at 12.5 img/s\nstep 8 loss nan at 13 img/s\n"
    reader = LogReader(Log(name="a.log", stream=io.BytesIO(text)), dialects=[dialect])
    records = [record for batch in reader for record in batch.records()]
    assert [(7, 3, 12.5), (8, None, 13.0)] == [
        (record.iteration, record.rank, record.samples_per_sec) for record in records
    ]


def test_a_package_with_the_dialect_of_the_page_is_used_by_the_command(tmp_path: Path) -> None:
    """The package is there as an installer would leave it: a module, and a dist-info with the entry point."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    points = tomllib.loads(toml)["project"]["entry-points"]
    package, info = tmp_path / "my_package", tmp_path / "my_package-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "dialect.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
            for group, named in points.items()
        )
    )
    log = tmp_path / "train.log"
    log.write_text("step 7 loss 1.5 at 12.5 img/s\nstep 8 loss 1.25 at 13 img/s\n")
    command = [sys.executable, "-c", "from dlperf.cli import main; main()", "parse", str(log), "--json"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    content = json.loads(done.stdout)
    assert "my_trainer" == content["dialect"]
    assert [(7, 12.5), (8, 13.0)] == [
        (record["iteration"], record["samples_per_sec"]) for record in content["records"]
    ]


def test_the_table_lists_every_dialect() -> None:
    table = re.findall(
        r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE.split("## Dialects")[1].split("##")[0], re.MULTILINE
    )
    scopes = {
        name: "one process's" if dialect.scope == "process" else "the whole job's"
        for name, dialect in DIALECTS.items()
    }
    assert scopes == {name: scope for name, scope in table if name in scopes}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_the_page_takes_its_options(words: list[str]) -> None:
    assert isinstance(main, click.Group)
    command = main.get_command(click.Context(main), words[1])
    assert command is not None
    command.make_context(words[1], words[2:])  # raises where there is no such option
