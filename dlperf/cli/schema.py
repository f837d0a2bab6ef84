"""`dlperf schema` and `dlperf completion`: for editors, other programs and shells."""

import importlib
from typing import Any

import click
from click.shell_completion import ZshComplete

from dlperf.cli.options import Choice
from dlperf.cli.shells import Bash, Fish
from dlperf.cli.terminal import print_json

# name: module and model; imported when asked for
_MODELS = {
    "sweep": ("dlperf.plan.sweep", "SweepFile"),
    "experiment": ("dlperf.plan.sweep", "ExperimentFile"),
    "cluster": ("dlperf.plan.cluster", "ClusterFile"),
    "case": ("dlperf.plan.case", "Case"),
    "plan": ("dlperf.plan.plan", "Plan"),
    "result": ("dlperf.results.schema", "RunResult"),
    "environment": ("dlperf.results.schema", "RunEnvironment"),
    "limit": ("dlperf.results.schema", "LimitRecord"),
    "import": ("dlperf.results.schema", "Imported"),
    "baseline": ("dlperf.compare.sets", "ResultSet"),
    "measurement": ("dlperf.results.measurement", "Measurement"),
    "machines": ("dlperf.results.measurement", "MachineBaseline"),
    "qualification": ("dlperf.results.noise_profile", "NoiseProfile"),
    "published": ("dlperf.results.published", "PublishedData"),
    "jobs": ("dlperf.running.slurm_job", "JobRecord"),
    "equality": ("dlperf.align.nodes", "NodeEquality"),
    "parts": ("dlperf.data.dataset", "PartsIndex"),
}
# name: the columns of a table
_TABLES = {"cases": "CASES", "runs": "RUNS"}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_EPILOG = """\b
Examples:
  dlperf schema sweep > sweep.schema.json
  dlperf schema

With a schema an editor describes each key and marks mistakes: `dlperf docs sweeps`, "In an editor".

NAME is `sweep`, `experiment` or `cluster` (YAML that people write), `case` (case.json),
`plan` (plan.lock.json), `result` (result.json), `environment` (environment.json), `limit` (limit.json),
`import` (import.json), `baseline` (of `dlperf baseline save`), `machines` (the same of measurements),
`measurement` (measurement.json), `qualification` (of `dlperf qualify`), `published` (the data.json of
published results), `jobs` (slurm.json), `equality` (equality.json of `dlperf align --cluster`), `parts` (the
index.json of a data set's parts), or `cases` or `runs` (a row of the tables of `dlperf.load`)."""


@click.command(epilog=_EPILOG)
@click.argument("name", required=False, metavar="[NAME]", type=Choice([*_MODELS, *_TABLES]))
def schema(*, name: str | None) -> None:
    """Print the JSON Schema of NAME, or without NAME an object that holds all of them."""
    print_json(_schema(name) if name else {each: _schema(each) for each in (*_MODELS, *_TABLES)})


def _schema(name: str) -> dict[str, Any]:
    if name in _TABLES:
        from dlperf.results import tables

        return {"$schema": _DIALECT, "title": name, **tables.schema(getattr(tables, _TABLES[name]))}
    if name == "sweep":
        return {"$schema": _DIALECT, **_sweep_schema()}
    module, model = _MODELS[name]
    content: dict[str, Any] = getattr(importlib.import_module(module), model).model_json_schema()
    if name == "experiment":  # its name is the file's
        del content["properties"]["experiment"]
        content["required"].remove("experiment")
    return {"$schema": _DIALECT, **content}


def _sweep_schema() -> dict[str, Any]:
    """As the model's, and below `options` what each installed framework allows."""
    from pydantic import BaseModel
    from pydantic.json_schema import models_json_schema

    from dlperf.adapters.registry import load_adapters
    from dlperf.plan.sweep import Include, SweepFile

    adapters = load_adapters()
    models: list[type[BaseModel]] = [SweepFile, Include, *(each.options for each in adapters.values())]
    references, content = models_json_schema([(model, "validation") for model in models])
    names = {model: str(found["$ref"]).rpartition("/")[2] for (model, _), found in references.items()}
    definitions: dict[str, dict[str, Any]] = content["$defs"]
    options = {
        name: {"$ref": f"#/$defs/{names[adapter.options]}", "description": f"Options of {adapter.title}."}
        for name, adapter in adapters.items()
    }
    for model in (SweepFile, Include):
        allowed = definitions[names[model]]["properties"]["options"]
        allowed |= {"properties": options, "additionalProperties": False}
    return {**definitions.pop(names[SweepFile]), "$defs": definitions}


_COMPLETION_EPILOG = """\b
Examples:
  eval "$(dlperf completion bash)"
  dlperf completion fish > ~/.config/fish/completions/dlperf.fish

At each Tab the script calls `_DLPERF_COMPLETE=bash_complete dlperf`, which prints the candidates."""


@click.command(epilog=_COMPLETION_EPILOG)
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    script_class = {"bash": Bash, "zsh": ZshComplete, "fish": Fish}[shell]
    click.echo(script_class(ctx.find_root().command, {}, "dlperf", "_DLPERF_COMPLETE").source())
