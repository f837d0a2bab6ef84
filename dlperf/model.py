"""The base of every model that dlperf reads from or writes to a file."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

# The type of a field that only earlier versions wrote: read as None whatever it holds, never written.
Retired = Annotated[SkipJsonSchema[None], BeforeValidator(lambda _: None), Field(exclude=True)]


class Model(BaseModel):
    """Frozen, closed to unknown keys, strict about types (a string is no number)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
