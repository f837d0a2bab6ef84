"""The command `dlperf`: one click group whose commands are loaded only when they are called.

A command is a click command named `command` in a module of this folder, or, where a module holds several,
named as after the colon in the table below. It exits with another code than 0 by `ctx.exit(code)`. An
expected error is a DlperfError: its text goes to standard error and its `exit_code` to the shell.
"""

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from dlperf.errors import DlperfError, SourceErrors
from dlperf.version import __version__

EXIT_INTERNAL = 5
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141


# name: where it is, and its line in `dlperf --help`; without a line it is there for jobs, and not listed
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Train the cases of a sweep and store the results."),
    "cell": ("cell", ""),
    "plan": ("plan", "Show what a sweep would run, and run nothing."),
    "limit": ("limit", "Find the largest batch or the most classes that train."),
    "status": ("status", "Show how far a sweep is, from another terminal."),
    "report": ("report", "Write the comparison as a Markdown or HTML document with charts."),
    "compare": ("compare", "Say what became slower, faster or stayed the same."),
    "gate": ("gate", "Run a sweep and fail if something became slower."),
    "qualify": ("qualify", "Measure the noise of this machine with A/A runs."),
    "baseline": ("baseline", "Save results as a named baseline; list and show baselines."),
    "history": ("history", "Show one case over versions or dates, and where it changed."),
    "results": ("results:results", "List results as a table, JSON or CSV."),
    "show": ("results:show", "Show one case: figures of every run, environment, status."),
    "explain": ("results:explain", "Show how a figure was computed, or why there is none."),
    "logs": ("logs", "Print or follow the logs of a case."),
    "parse": ("importing:parse", "Show what a log parser reads from a file."),
    "import": ("importing:import_", "Turn logs of other programs into results."),
    "align": ("align", "Prove that all frameworks compute the same function."),
    "init": ("starting:init", "Write a first sweep and experiment of your own."),
    "list": ("listing", "List frameworks, options, sweeps and whatever else has a name."),
    "docs": ("starting:docs", "Print a page of the documentation."),
    "data": ("data", "Make, convert and check data sets of faces."),
    "env": ("env", "List, create, check and remove framework environments."),
    "cluster": ("machines:cluster", "Check, measure and clean nodes of a cluster; their history."),
    "doctor": ("machines:doctor", "Find what is wrong with this machine before a sweep does."),
    "schema": ("schema:schema", "Print the JSON Schema of a file that dlperf reads or writes."),
    "completion": ("schema:completion", "Print the completion script of a shell."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, and not for `--help`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the table's order."""
        del ctx
        return [name for name, (_, line) in COMMANDS.items() if line]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None where the table has no such name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), name or "command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word; an unknown one is answered with the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=COMMANDS, ctx=ctx
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the program, or answer a shell's completion script."""
        if "_DLPERF_COMPLETE" in os.environ:
            importlib.import_module("dlperf.cli.shells")
        return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the command line, which prints the help or the version where it asks for these."""
        try:
            return super().make_context(*args, **options)
        except BrokenPipeError:
            _end_quietly()

    def invoke(self, ctx: click.Context) -> object:
        """Run the command and turn what goes wrong into one line and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            _end_quietly()
        except Exception as error:  # any other exit code than Python's 1, which means a regression here
            if ctx.params["debug"]:
                raise
            from dlperf.cli.terminal import say

            say(_text(error))
            ctx.exit(error.exit_code if isinstance(error, DlperfError) else EXIT_INTERNAL)


def _end_quietly() -> NoReturn:
    """The reader (`| head`) has gone; nothing more can be said on standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise click.exceptions.Exit(EXIT_PIPE_CLOSED)


def _text(error: Exception) -> str:
    if isinstance(error, SourceErrors):
        return str(error)  # each line starts with file:line:column, where editors and terminals look for it
    if isinstance(error, OSError) and error.filename:
        return f"dlperf: {error.filename}: {error.strerror}"
    if isinstance(error, DlperfError | OSError):
        return f"dlperf: {error}"
    return f"dlperf: internal error: {type(error).__name__}: {error} (the traceback: dlperf --debug ...)"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="dlperf")
def main(*, debug: bool) -> None:
    """Benchmark deep-learning frameworks on the training of large-scale face recognition.

    \b
    Examples:
      dlperf run sweeps/quickstart.yaml
      dlperf plan sweeps/r100_emore.yaml
      dlperf report results/quickstart --out report.md

    Exit codes: 0 ok, 1 regression or broken alignment, 2 wrong input, 3 some cases failed or are missing,
    4 inconclusive, 5 infrastructure, 130 and 143 interrupted.
    """  # noqa: D301 - click takes the backspace character itself as "keep these lines"
    del debug  # read by LazyGroup.invoke
