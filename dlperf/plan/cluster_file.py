"""The keys of a cluster file, and what must be true of them together. docs/clusters.md is for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from dlperf.model import Model
from dlperf.plan.validation import dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlperf.errors import Problem
    from dlperf.plan.document import Document, KeyPath

# A key with one of these words is somebody's try to put a secret into a file that others can read.
_SECRET_KEYS = re.compile(r"pass(word|wd|phrase)?|secret|token", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*")
_LONGEST_LINE = 80
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _host(text: str) -> str:
    """Names end up in folders, tables and commands of other tools."""
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is no host name, alias or address")
    return text


def _variables(values: dict[str, str]) -> dict[str, str]:
    for name in values:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable")
    return values


def _short_line(text: str) -> str:
    """It stands in tables and headings."""
    if not text.strip() or not text.isprintable() or len(text) > _LONGEST_LINE:
        raise ValueError(f"must be one line of 1 to {_LONGEST_LINE} characters")
    return text


Text = Annotated[str, Field(min_length=1)]
Host = Annotated[Text, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Variables = Annotated[dict[str, str], AfterValidator(_variables)]
Link = Annotated[str, AfterValidator(_short_line)]


class NodeSettings(Model):
    """What can be said of one node, or of all of them. None: not given."""

    port: Port | None = None
    user: Text | None = None
    ssh_config: Text | None = None  # file to read in place of ~/.ssh/config, as `ssh -F` does
    device: Literal["cpu", "cuda"] | None = None  # what the devices are; left out: cuda
    devices: PositiveInt | None = None  # a node, ranks at most
    cores: PositiveInt | None = None  # CPU cores a node that ranks may use
    interface: Text | None = None  # network interface between the nodes, such as ib0
    link: Link | None = None  # what it is, in words, such as "100 Gbit/s InfiniBand"; a part of the hardware
    folder: Text | None = None  # on the node, for dlperf-node/ with code, environments, runs
    environment: Variables | None = None  # variables of everything that dlperf starts there
    python: Text | None = None  # Python 3.8 or newer that runs dlperf's own programs there
    prefix: tuple[Text, ...] | None = None  # words before every command, such as [docker, exec, -i, NAME]
    environments: Literal["make", "copy"] | None = None  # made there with uv, or made here and copied


class NodeEntry(NodeSettings):
    """One node; `address` is what ssh connects to, `engine_address` what the other nodes' ranks do."""

    name: Host
    address: Host | None = None
    engine_address: Host | None = None


def _node_entry(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class ClusterFile(NodeSettings):
    """A cluster file."""

    transport: Literal["ssh"] = "ssh"
    nodes: tuple[Annotated[NodeEntry, BeforeValidator(_node_entry)], ...] = ()
    notes: str = ""


def secrets(document: Document) -> Iterator[Problem]:
    """Keys that look like a place for a secret."""
    for path, place in document.keys.items():
        if _SECRET_KEYS.fullmatch(str(path[-1])) and "environment" not in path:
            yield place.problem(
                f"{dotted(path)}: no secret belongs into a file; use a key with ssh-agent, or IdentityFile "
                "in ~/.ssh/config"
            )


def problems(file: ClusterFile) -> Iterator[tuple[KeyPath, str]]:
    """Where keys that are right one by one do not go together, and what is wrong there."""
    if not file.nodes:
        yield (), "key 'nodes' is missing: a list of host names, or of mappings with 'name'"
    yield from _node_problems(file)


def _node_problems(file: ClusterFile) -> Iterator[tuple[KeyPath, str]]:
    names: dict[str, int] = {}
    places: dict[tuple[str, int | None], str] = {}
    for index, node in enumerate(file.nodes):
        spot = ("nodes", index)
        where = (node.address or node.name, node.port or file.port)
        if node.name in names:
            yield spot, f"node {node.name!r} is listed twice; remove one"
        elif where in places and (node.prefix or file.prefix) is None:
            yield spot, f"{node.name!r} is the same machine as {places[where]!r}; remove one"
        names[node.name] = index
        places.setdefault(where, node.name)
        for key in ("devices", "cores"):
            if getattr(node, key) is None and getattr(file, key) is None:
                yield spot, f"key {key!r} is missing, here or for all nodes: how many {key} {node.name!r} has"
