"""A guarded robot, whose clock the tests turn."""

import gc
import math
from typing import Any

import numpy as np
import pytest

from msr_runtime import ActionGuard, Field

FIELDS = (
    Field(name="velocity", shape=(2,), unit="m/s", low=-1.0, high=1.0),
    Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf),
)
MOVING = (
    Field(name="velocity", shape=(2,), unit="m/s", low=-1.0, high=1.0, kind="velocity"),
    Field(name="grip", shape=(1,), unit="N", low=-5.0, high=math.inf),
)


class Guarded:
    """A guard at 10 Hz on a clock that stands still until a test turns it."""

    MOVING = MOVING

    def __init__(self, fields: tuple[Field, ...] = FIELDS, **options: Any) -> None:
        settings: dict[str, Any] = {"hz": 10.0, "max_age": 0.15, "clock": lambda: self.now}
        self.now = 1000.0
        self.guard = ActionGuard(fields, **(settings | options))

    def ask(self, action: Any, after: float = 0.1, age: float = 0.0) -> np.ndarray:
        """Ask for `action` at the next tick, `after` seconds later; its observation is `age` old."""
        self.now += after
        return self.guard(action, self.now - age)


@pytest.fixture(autouse=True)
def collections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The generations of the collections that were asked for. None is done: with all that tests import, it is long."""
    asked: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda generation=2: asked.append(generation) or 0)
    return asked


@pytest.fixture(scope="session")
def guarded() -> type[Guarded]:
    """Its class. A test module cannot import `conftest`."""
    return Guarded
