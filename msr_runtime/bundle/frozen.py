"""The base of what a manifest is made of."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Values that do not change, and no others than those that are named."""

    # JSON has no infinity and no NaN. They are written as strings, and read back as floats.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
