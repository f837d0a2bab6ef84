"""The base of every model that dlperf reads from or writes to a file."""

import ast
import inspect
import sys
from functools import cache
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema
from pydantic_core import CoreSchema

# The type of a field that only earlier versions wrote: read as None whatever it holds, never written.
Retired = Annotated[SkipJsonSchema[None], BeforeValidator(lambda _: None), Field(exclude=True)]


class Model(BaseModel):
    """Frozen, closed to unknown keys, strict about types (a string is no number).

    The string below a field describes it in the JSON Schema, also in models that inherit it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # pydantic's own `use_attribute_docstrings` would read the sources again at every import.
        schema = handler(core_schema)
        models = [base for base in cls.__mro__ if issubclass(base, Model)]
        for name, content in handler.resolve_ref_schema(schema).get("properties", {}).items():
            # A field that is a word of Python, such as `continue`, ends in an underscore.
            texts = (
                _descriptions(model.__module__).get((model.__name__, field))
                for model in models
                for field in (name, f"{name}_")
            )
            if text := next(filter(None, texts), None):
                content.setdefault("description", text)
        return schema


@cache
def _descriptions(module: str) -> dict[tuple[str, str], str]:
    """The strings below the fields of a module's classes, by class and field."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # built in, or typed in
        return {}
    return {
        (statement.name, field.target.id): " ".join(below.value.value.split())
        for statement in tree.body
        if isinstance(statement, ast.ClassDef)
        for field, below in zip(statement.body, statement.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(below.value.value, str)
    }
