"""The command group: what --help costs, how errors end, completion, schemas."""

# ruff: noqa: E501 - a line of output is one line

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import click
import pytest
from click.testing import CliRunner

from dlperf import __version__
from dlperf.cli import COMMANDS, main
from dlperf.errors import EnvironmentUnavailable, InfrastructureError, Problem, SourceErrors, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

HEAVY = ("jinja2", "matplotlib", "numpy", "pandas", "paramiko", "pydantic", "rich", "scipy", "yaml")


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from dlperf.cli import main; main(['--help'], standalone_mode=False); "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    *help_lines, modules = done.stdout.splitlines()
    listed = [line.split()[0] for line in help_lines[help_lines.index("Commands:") + 1 :]]
    assert [name for name, (_, summary) in COMMANDS.items() if summary] == listed  # the others are for jobs
    assert set() == {name.partition(".")[0] for name in modules.split()} & set(HEAVY)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_of_the_table_loads_and_has_examples(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert 0 == result.exit_code, result.output
    assert "Example" in result.stdout


def test_the_version_is_printed() -> None:
    assert f"dlperf, version {__version__}\n" == CliRunner().invoke(main, ["--version"]).stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["rnu"])
    assert 2 == result.exit_code
    assert "No such command 'rnu'" in result.stderr


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `dlperf plan` raise."""

    def make(error: BaseException) -> None:
        @click.command()
        def command() -> NoReturn:
            raise error

        monkeypatch.setattr(main, "get_command", lambda _ctx, _name: command)

    return make


@pytest.mark.parametrize(
    ("error", "exit_code", "text"),
    [
        (UserError("a flag is wrong"), 2, "dlperf: a flag is wrong\n"),
        (InfrastructureError("disk full"), 5, "dlperf: disk full\n"),
        (EnvironmentUnavailable("no wheel"), 5, "dlperf: no wheel\n"),
        (SourceErrors([Problem("b.yaml", 2, 1, "two"), Problem("a.yaml", 1, 1, "one")]), 2, "a.yaml:1:1: one\nb.yaml:2:1: two\n"),
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "/x"), 5, "dlperf: /x: Permission denied\n"),
        (RuntimeError("bug"), 5, "dlperf: internal error: RuntimeError: bug (the traceback: dlperf --debug ...)\n"),
        (click.exceptions.Exit(3), 3, ""),
    ],
)  # fmt: skip
def test_an_error_is_its_text_and_its_exit_code(
    failing: Callable[[BaseException], None], error: BaseException, exit_code: int, text: str
) -> None:
    failing(error)
    result = CliRunner().invoke(main, ["plan"])
    assert (exit_code, text) == (result.exit_code, result.stderr)


def test_debug_shows_the_traceback(failing: Callable[[BaseException], None]) -> None:
    failing(RuntimeError("bug"))
    with pytest.raises(RuntimeError, match="bug"):
        CliRunner().invoke(main, ["--debug", "plan"], catch_exceptions=False)


@pytest.mark.parametrize("words", [["list", "sweeps"], ["--help"], ["cluster", "--help"], ["--version"]])
def test_a_closed_pipe_ends_quietly(words: list[str]) -> None:
    """`dlperf list sweeps | head -1`: no traceback, and no exit code that means a regression."""
    command = [sys.executable, "-m", "dlperf", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"" == process.stderr.read()
        assert 141 == process.wait(timeout=60)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_dlperf(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert 0 == result.exit_code
    assert f"_DLPERF_COMPLETE={shell}_complete" in result.stdout


def test_completion_completes_commands() -> None:
    environment = {"_DLPERF_COMPLETE": "bash_complete", "COMP_WORDS": "dlperf pl", "COMP_CWORD": "1"}
    program = "from dlperf.cli import main; main(prog_name='dlperf')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert "plain,plan\n" == done.stdout


def test_schema_prints_one_or_all() -> None:
    every = json.loads(CliRunner().invoke(main, ["schema"]).stdout)
    told = CliRunner().invoke(main, ["schema", "--help"]).stdout
    assert [] == [name for name in every if f"`{name}`" not in told]
    assert {
        "sweep", "experiment", "cluster", "case", "plan", "result", "environment", "import", "published",
        "baseline", "qualification", "limit", "cases", "runs", "parts", "jobs", "machines",
        "equality", "measurement",
    } == set(every)  # fmt: skip
    for name, schema in every.items():
        assert schema == json.loads(CliRunner().invoke(main, ["schema", name]).stdout)
        assert {"$schema", "properties", "title"} <= set(schema)
    assert "experiment" not in every["experiment"]["properties"]
    assert {"batch_size_per_device", "experiment", "frameworks", "topology"} == set(
        every["sweep"]["required"]
    )
