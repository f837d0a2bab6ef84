"""`dlperf explain`: how a figure came about, or why there is none."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dlperf.cli.selection import load_results
from dlperf.results.explanation import Section, explain
from dlperf.results.query import find_case

_EPILOG = """\b
Examples:
  dlperf explain mxnet-1.9.1_y1_data_1n1g_b4_c100_fp32-242a22271c50
  dlperf explain 242a22271c50 results/quickstart
  dlperf explain 242a22271c50 --format json

Everything is made again from the logs; where a result says something else, that is shown as changed."""


@click.command(epilog=_EPILOG)
@click.argument("case", metavar="CASE")
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(*, case: str, folders: tuple[Path, ...], form: str) -> None:
    """Show how CASE got its figure: log lines, window, steps left out, formula, environment, failure.

    CASE is a case's id, its content hash (the id's last 12 digits) or a part of the id that no other case
    has. DIR is a results folder, the folder of one sweep or published:NAME (default: results).
    """
    loaded = load_results(folders)
    figures = find_case(loaded.all_figures, case)
    sections = [section for figure in figures for section in explain(figure)]
    click.echo(_as_json(sections) if form == "json" else _as_text(sections))


def _as_json(sections: list[Section]) -> str:

    return json.dumps(
        [{"title": section.title, "facts": list(section.facts)} for section in sections], indent=2
    )


def _as_text(sections: list[Section]) -> str:
    blocks = []
    for section in sections:
        width = max((len(name) for name, _text in section.facts), default=0)
        lines = [f"  {name:<{width}}  {text}" for name, text in section.facts]
        blocks.append("\n".join([section.title, *lines]))
    return "\n\n".join(blocks)
