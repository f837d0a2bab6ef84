"""`dlperf schema`: JSON Schemas of the files that dlperf reads and writes."""

from __future__ import annotations

import importlib
from typing import Any

import click

# name: module and model; imported when asked for
_MODELS = {
    "sweep": ("dlperf.plan.sweep", "SweepFile"),
    "experiment": ("dlperf.plan.sweep", "ExperimentFile"),
    "cluster": ("dlperf.plan.cluster", "ClusterFile"),
    "case": ("dlperf.plan.case", "Case"),
    "plan": ("dlperf.plan.plan", "Plan"),
    "result": ("dlperf.results.schema", "RunResult"),
    "environment": ("dlperf.results.schema", "RunEnvironment"),
    "limit": ("dlperf.results.limits", "LimitRecord"),
    "import": ("dlperf.results.schema", "Imported"),
    "baseline": ("dlperf.compare.sets", "ResultSet"),
    "qualification": ("dlperf.results.qualification", "Qualification"),
    "published": ("dlperf.results.published", "PublishedData"),
}

_EPILOG = """\b
Examples:
  dlperf schema sweep > sweep.schema.json
  dlperf schema

NAME is `sweep`, `experiment` or `cluster` (YAML that people write), `case` (case.json),
`plan` (plan.lock.json), `result` (result.json), `environment` (environment.json), `limit` (limit.json),
`import` (import.json), `baseline` (of `dlperf baseline save`), `qualification` (of `dlperf qualify`) or
`published` (the data.json of published results)."""


@click.command(epilog=_EPILOG)
@click.argument("name", required=False, type=click.Choice(list(_MODELS)))
def command(*, name: str | None) -> None:
    """Print the JSON Schema of NAME, or an object that holds all of them."""
    import json

    content = _schema(name) if name else {each: _schema(each) for each in _MODELS}
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _schema(name: str) -> dict[str, Any]:
    module, model = _MODELS[name]
    schema: dict[str, Any] = getattr(importlib.import_module(module), model).model_json_schema()
    if name == "experiment":  # its name is the file's
        del schema["properties"]["experiment"]
        schema["required"].remove("experiment")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
