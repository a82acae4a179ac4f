"""What the tests of recordings share: a model, random samples, and a reader that is not this project's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.records import Channel, Message, Schema
from numpy.typing import NDArray

from msr_runtime import AdaptiveModel

Read = list[tuple[Schema, Channel, Message, Any]]


@pytest.fixture
def model(bundle_path: Path) -> AdaptiveModel:
    """A model of the reference bundle."""
    return AdaptiveModel.load(bundle_path)


@pytest.fixture(scope="session")
def random() -> Callable[..., NDArray[np.float32]]:
    """A function of a seed and a shape: standard normal float32."""
    return lambda seed, *shape: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _messages(path: Path) -> Read:
    with path.open("rb") as file:
        read = list(make_reader(file, validate_crcs=True).iter_messages(log_time_order=False))
    return [(schema, channel, message, json.loads(message.data)) for schema, channel, message in read if schema]


@pytest.fixture(scope="session")
def messages() -> Callable[[Path], Read]:
    """A function that reads all messages of a file with mcap, as another program would; the JSON is parsed."""
    return _messages


@pytest.fixture(scope="session")
def topic() -> Callable[[Path, str], list[Any]]:
    """A function that returns the parsed messages of one topic of a file."""
    return lambda path, name: [data for _, channel, _, data in _messages(path) if channel.topic == name]
