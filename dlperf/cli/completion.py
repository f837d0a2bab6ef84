"""`dlperf completion SHELL`: the script that makes Tab complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    r"""Print the completion script of SHELL.

    \b
    Examples:
      eval "$(dlperf completion bash)"
      dlperf completion fish > ~/.config/fish/completions/dlperf.fish

    The script asks `_DLPERF_COMPLETE=bash_complete dlperf` for the words at each Tab.
    """
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(script(ctx.find_root().command, {}, "dlperf", "_DLPERF_COMPLETE").source())
