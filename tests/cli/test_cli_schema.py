"""`dlperf schema`: an editor can show help for every key, and accepts the files that dlperf accepts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from dlperf.cli import main
from dlperf.files import shipped_folder
from dlperf.model import Model
from dlperf.plan.documents import read_document

if TYPE_CHECKING:
    from collections.abc import Iterator


def printed(name: str | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(
        CliRunner().invoke(main, ["schema", *([name] if name else [])]).stdout
    )
    return schema


def undescribed(schema: Any, at: str = "") -> Iterator[str]:
    """The properties without a description, at any depth, as `$defs.Loss.scale`."""
    if isinstance(schema, dict):
        for key, content in schema.items():
            if key == "properties":
                yield from (f"{at}.{name}" for name, of in content.items() if not of.get("description"))
            yield from undescribed(content, f"{at}.{key}")
    elif isinstance(schema, list):
        for content in schema:
            yield from undescribed(content, at)


TYPES = {
    "array": list | tuple,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": int | float,
    "object": dict,
    "string": str,
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "") -> Iterator[str]:
    """Where a value breaks a JSON Schema, for the keywords that these schemas have."""
    if "$ref" in schema:
        yield from problems(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, at)
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        if choices and all(any(problems(value, choice, root, at)) for choice in choices):
            yield f"{at}: fits no choice"
    kind = TYPES[schema["type"]] if "type" in schema else object
    if not isinstance(value, kind) or (
        isinstance(value, bool) and schema.get("type") in {"integer", "number"}
    ):
        yield f"{at}: no {schema['type']}"
        return
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{at}: none of the values"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{at}: not like {schema['pattern']}"
    yield from problems_inside(value, schema, root, at)


def problems_inside(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        yield from (f"{at}.{key} is missing" for key in schema.get("required", []) if key not in value)
        for key, content in value.items():
            if key in known or isinstance(others, dict):
                yield from problems(content, known.get(key, others), root, f"{at}.{key}")
            elif not others:
                yield f"{at}.{key} is unknown"
    if isinstance(value, list | tuple):
        for index, content in enumerate(value):
            yield from problems(content, schema.get("items", {}), root, f"{at}.{index}")


def test_every_property_of_every_schema_is_described() -> None:
    assert [] == list(undescribed(printed()))


def test_descriptions_name_pages_that_a_wheel_can_print() -> None:
    assert [] == re.findall(r"[^\s`]*docs/[^\s`]*", json.dumps(printed()))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=f"{folder}/{path.name}")
        for folder in ("sweeps", "experiments", "clusters")
        for path in sorted(shipped_folder(folder).glob("*.yaml"))
    ],
)
def test_the_shipped_files_fit_their_schema(path: Any) -> None:
    schema = printed(path.parent.name.removesuffix("s"))
    assert [] == list(problems(read_document(path, shown=path.name).data, schema, schema))


SWEEP = {"experiment": "mine", "frameworks": "mxnet", "topology": "1n1g", "batch_size_per_device": 8}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, []),
        ({"options": {"pytorch": {"compile": True}, "mxnet": {}}}, []),
        ({"options": {"torch": {}}}, [".options.torch is unknown"]),
        ({"options": {"pytorch": {"compil": True}}}, [".options.pytorch.compil is unknown"]),
        ({"options": {"pytorch": {"tf32": "yes"}}}, [".options.pytorch.tf32: no boolean"]),
        ({"include": [{"options": {"mxnet": {"tf": 1}}}]}, [".include.0.options.mxnet.tf is unknown"]),
        ({"order": "random"}, [".order: none of the values"]),
    ],
)
def test_a_sweep_is_checked_down_to_the_options_of_each_framework(
    keys: dict[str, Any], expected: list[str]
) -> None:
    schema = printed("sweep")
    assert expected == list(problems(SWEEP | keys, schema, schema))


class Described(Model):
    size: int
    """Bytes on
    disk."""


class Inheriting(Described):
    size: int = 1
    other: int = 2
    """No size."""


def test_the_string_below_a_field_describes_it_also_where_a_model_inherits_it() -> None:
    properties = Inheriting.model_json_schema()["properties"]
    assert {"size": "Bytes on disk.", "other": "No size."} == {
        name: content["description"] for name, content in properties.items()
    }
