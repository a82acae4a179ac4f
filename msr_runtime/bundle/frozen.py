"""The base of what a manifest is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A number that was measured. An infinite one would switch off what is compared with it."""
Count = Annotated[int, Field(ge=1, le=2**31)]
"""A number of samples or tasks that the robot computes with."""


class Frozen(BaseModel):
    """Values that do not change, and no others than those that are named."""

    # JSON has no infinity and no NaN. They are written as strings, and read back as floats.
    # Each class is built at its first use: the manifest's own build covers all parts of it.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", defer_build=True)
