"""Every `dlperf` command in README, docs/ and `--help` is one that there is, with the options it is given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from dlperf.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_in(text: str) -> list[str]:
    """The commands of indented lines and of blocks; two spaces end one, as they begin what is said of it."""
    blocks = re.sub(
        r"^```.*?^```$", lambda block: re.sub("(?m)^", "    ", block[0]), text, flags=re.MULTILINE | re.DOTALL
    )
    joined = re.sub(r"\\\n\s*", "", blocks.replace("\b", ""))
    lines = re.findall(r"^ +(?:\$ |\$\(|run: )?(?:\S*/bin/)?(dlperf [a-z].*)$", joined, re.MULTILINE)
    return [re.split(r"  +|\s\|\|?\s|\s>\s|\) -", line)[0] for line in lines if "──" not in line]


def every_command(group: click.Group) -> Iterator[tuple[str, click.Command, str]]:
    """The name of each command that is not a group, the command, and the examples that lead to it."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                examples = command.epilog or ""
                yield from (
                    (f"{name} {inner}", leaf, examples + e) for inner, leaf, e in every_command(command)
                )
            else:
                yield name, command, command.epilog or ""


COMMANDS = list(every_command(main))
SHOWN = [(str(page.relative_to(ROOT)), line) for page in PAGES for line in commands_in(page.read_text())]
EXAMPLES = [(f"{name} --help", line) for name, _, text in COMMANDS for line in commands_in(text)]


@pytest.mark.parametrize(("where", "line"), sorted({*SHOWN, *EXAMPLES}))
def test_a_command_that_is_shown_takes_its_options(where: str, line: str) -> None:
    _, *words = shlex.split(line)
    command: click.Command = main
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{where} shows {line}"
        command, words = found, words[1:]
    command.make_context(command.name, words)  # raises where there is no such option


def test_the_help_of_every_command_shows_an_example_of_it() -> None:
    without = [
        name
        for name, _, examples in COMMANDS
        if not any(line.startswith(f"dlperf {name}") for line in commands_in(examples))
    ]
    assert without == []


def test_the_pages_show_commands() -> None:
    assert len(SHOWN) >= 50
