"""docs/logs.md: its dialect works as written, its table of dialects is complete, its commands exist."""

from __future__ import annotations

import io
import re
from pathlib import Path

import click
import pytest
from log_makers import DIALECTS

from dlperf.cli import main
from dlperf.logs.dialects.base import Dialect
from dlperf.logs.reader import LogReader
from dlperf.logs.stream import Log

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
