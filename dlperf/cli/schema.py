"""`dlperf schema`: JSON Schemas of the files that dlperf reads and writes."""

from __future__ import annotations

import importlib
import json
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
    "qualification": ("dlperf.results.noise_profile", "NoiseProfile"),
    "published": ("dlperf.results.published", "PublishedData"),
}
# name: the columns of a table
_TABLES = {"cases": "CASES", "runs": "RUNS"}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_EPILOG = """\b
Examples:
  dlperf schema sweep > sweep.schema.json
  dlperf schema

NAME is `sweep`, `experiment` or `cluster` (YAML that people write), `case` (case.json),
`plan` (plan.lock.json), `result` (result.json), `environment` (environment.json), `limit` (limit.json),
`import` (import.json), `baseline` (of `dlperf baseline save`), `qualification` (of `dlperf qualify`),
`published` (the data.json of published results), or `cases` or `runs` (a row of the tables of
`dlperf.load`)."""


@click.command(epilog=_EPILOG)
@click.argument("name", required=False, type=click.Choice([*_MODELS, *_TABLES]))
def command(*, name: str | None) -> None:
    """Print the JSON Schema of NAME, or an object that holds all of them."""
    content = _schema(name) if name else {each: _schema(each) for each in (*_MODELS, *_TABLES)}
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _schema(name: str) -> dict[str, Any]:
    if name in _TABLES:
        from dlperf.results import tables

        return {"$schema": _DIALECT, "title": name, **tables.schema(getattr(tables, _TABLES[name]))}
    module, model = _MODELS[name]
    schema: dict[str, Any] = getattr(importlib.import_module(module), model).model_json_schema()
    if name == "experiment":  # its name is the file's
        del schema["properties"]["experiment"]
        schema["required"].remove("experiment")
    return {"$schema": _DIALECT, **schema}
