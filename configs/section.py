"""The base of every section of a config, and the types that sections share."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]
NAME_PATTERN = r"^[0-9A-Za-z_-]+$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def worded(pattern: str, meaning: str) -> BeforeValidator:
    """For a text that matches all of a pattern, with a fault that says what that means."""

    def check(value: Any) -> Any:
        if not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise ValueError(f"must be {meaning}")
        return value

    return BeforeValidator(check)


def split_commas(value: Any) -> Any:
    """A list may be written `a,b`, as on a command line."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class Section(BaseModel):
    """Frozen; unknown keys are errors; numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
