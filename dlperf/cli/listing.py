"""`dlperf list`: what a sweep or a command can name, what each of them is, and where it lies."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from dlperf.adapters.base import Adapter
from dlperf.adapters.registry import load_adapters
from dlperf.cli.options import JSON, Choice
from dlperf.cli.terminal import echo, print_json, say, table
from dlperf.plan.documents import Kind, files_by_name, shown

Row = dict[str, str]

_EPILOG = """\b
Examples:
  dlperf list sweeps
  dlperf list options
  dlperf list versions --json

Files of your own in ./sweeps, ./experiments and ./clusters come before those that ship with dlperf."""


def _files(kind: Kind) -> Iterator[Row]:
    here = Path.cwd()
    for name, path in files_by_name(kind, folders=(here,)).items():
        yield {kind: name, "what it is": headline(path), "file": shown(path, folder=here)}


def headline(path: Path) -> str:
    """The first sentence of the comment that a YAML file begins with; empty where there is none.

    A line for an editor's language server is no part of it.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# yaml-language-server:"):
            comment.append(line.lstrip("# ").rstrip())
    return re.split(r"(?<=\.)\s", " ".join(comment), maxsplit=1)[0]


def _frameworks() -> Iterator[Row]:
    for adapter in load_adapters().values():
        yield {
            "framework": adapter.name,
            "title": adapter.title,
            "default": adapter.versions[0],
            "package": type(adapter).__module__.partition(".")[0],
        }


def _versions() -> Iterator[Row]:
    for adapter in load_adapters().values():
        for version in adapter.versions:
            builds = {device: _build(adapter, version, device) for device in ("cpu", "cuda")}
            yield {"framework": adapter.name, "version": version, **builds}


def _build(adapter: Adapter, version: str, device: Any) -> str:
    """The CPythons that the build of a version runs on, best first; `none` without a build."""
    try:
        return f"Python {', '.join(adapter.environment(version, device).pythons)}"
    except ValueError:
        return "none"


def _options() -> Iterator[Row]:
    for adapter in load_adapters().values():
        properties = adapter.options.model_json_schema()["properties"]
        for name, content in properties.items():
            default = content.get("default")
            yield {
                "framework": adapter.name,
                "option": name,
                "values": _values(content),
                "default": "" if default is None else str(default).lower(),
                "what it does": content.get("description", ""),
            }


def _values(schema: dict[str, Any]) -> str:
    """The values that a JSON Schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_values(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return " or ".join(map(str, schema.get("enum", [schema.get("const")])))
    named = {"boolean": "true or false", "integer": "whole number", "number": "number", "string": "text"}
    return named.get(schema.get("type", ""), str(schema.get("type", "")))


def _dialects() -> Iterator[Row]:
    from dlperf.importing.dialects import load_dialects

    for dialect in load_dialects().values():
        yield {"dialect": dialect.name, "logs of": dialect.program}


def _reports() -> Iterator[Row]:
    from dlperf.files import shipped_folder
    from dlperf.results.published import DATA_FILE, PREFIX, load_published, published_names

    for name in published_names():
        path = shipped_folder("reports") / name / DATA_FILE
        title = load_published(name).data.title
        yield {"report": PREFIX + name, "what it is": title, "file": shown(path, folder=Path.cwd())}


_KINDS: dict[str, Callable[[], Iterable[Row]]] = {
    "frameworks": _frameworks,
    "versions": _versions,
    "options": _options,
    "experiments": lambda: _files("experiment"),
    "sweeps": lambda: _files("sweep"),
    "clusters": lambda: _files("cluster"),
    "dialects": _dialects,
    "reports": _reports,
}


@click.command(epilog=_EPILOG)
@click.argument("kind", metavar="KIND", type=Choice(list(_KINDS)))
@JSON
def command(*, kind: str, as_json: bool) -> None:
    """List everything of one KIND, with what it is and where it lies.

    KIND is frameworks, versions, options (of frameworks in sweeps), experiments, sweeps, clusters, dialects
    (of logs that dlperf reads) or reports (published figures).
    """
    rows = list(_KINDS[kind]())
    if as_json:
        print_json(rows)
    elif not rows:
        say(f"there are no {kind} here")
    else:
        echo(table(list(rows[0]), [list(row.values()) for row in rows]))
