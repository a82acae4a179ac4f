"""A checkpoint is read back exactly, or refused."""

import json
import math
import resource
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msr_runtime.errors import CheckpointError
from msr_runtime.files import write_atomically
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import MAML
from msr_runtime.meta.training.checkpoint import BEST, build_learner, load_checkpoint, save_checkpoint
from msr_runtime.meta.training.config import TrainConfig, TrainSettings
from msr_runtime.normalization import Normalization
from msr_runtime.task import Field

PUSH = Field(name="push", shape=(2,), unit="N", low=-math.inf, high=math.inf)
CONFIG = TrainConfig(
    family="plane",
    inputs=(PUSH,),
    outputs=(PUSH,),
    loss="mse",
    method="msr",
    learner=LearnerConfig(width=4, depth=1, filters=3),
    settings=TrainSettings(seed=7),
)
NORMALIZATION = Normalization(
    input_center=(0.0, 1 / 3), input_scale=(1.0, 2.0), output_center=(0.0, 0.1), output_scale=(3.0, 1e-3)
)
OPTIMIZER = {"0.step": torch.tensor(3.0), "0.exp_avg": torch.randn(3, 4)}


class Saved(NamedTuple):
    """A checkpoint on disk, its bytes, and a path for damaged copies of it."""

    path: Path
    data: bytes
    copy: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Saved:
    """A checkpoint of an MSR whose weights differ from the initial ones."""
    folder = tmp_path_factory.mktemp("checkpoint")
    learner = build_learner(CONFIG)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += torch.randn_like(parameter)
    save_checkpoint(
        folder / BEST,
        config=CONFIG,
        learner=learner,
        normalization=NORMALIZATION,
        step=12,
        best=math.inf,
        optimizer=OPTIMIZER,
    )
    return Saved(folder / BEST, (folder / BEST).read_bytes(), folder / "copy.safetensors")


def test_round_trip_is_exact(saved: Saved) -> None:
    """Every tensor, number and setting is read back bit for bit. Without the optimizer, the digest is another one."""
    read = load_checkpoint(saved.path.parent)
    assert (read.path, read.config, read.normalization) == (saved.path, CONFIG, NORMALIZATION)
    assert (read.step, read.best) == (12, math.inf)
    assert all(torch.equal(read.optimizer[name], value) for name, value in OPTIMIZER.items())
    save_checkpoint(
        saved.copy, config=CONFIG, learner=read.learner, normalization=NORMALIZATION, step=12, best=math.inf
    )
    again = load_checkpoint(saved.copy)
    assert again.optimizer == {}
    for name, tensor in read.learner.state_dict().items():
        assert torch.equal(again.learner.state_dict()[name], tensor)
        assert not torch.equal(build_learner(CONFIG).state_dict()[name], tensor)
    assert again.digest != read.digest == load_checkpoint(saved.path).digest


def test_there_is_no_pickle_in_the_file(saved: Saved) -> None:
    """The file is a length, a JSON header that describes every byte after it, and plain numbers."""
    length = int.from_bytes(saved.data[:8], "little")
    header = json.loads(saved.data[8 : 8 + length])
    json.loads(header.pop("__metadata__")["config"])
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(saved.data) - 8 - length


@settings(max_examples=300, deadline=None)
@given(data=st.data(), mask=st.integers(1, 255))
def test_every_changed_byte_is_refused(saved: Saved, data, mask: int) -> None:
    """If one byte changes anywhere, in header or tensors, reading raises CheckpointError."""
    length = int.from_bytes(saved.data[:8], "little")
    meaningful = 8 + len(saved.data[8 : 8 + length].rstrip(b" "))  # after the JSON come spaces, which align the tensors
    places = st.one_of(st.integers(0, meaningful - 1), st.integers(8 + length, len(saved.data) - 1))
    damaged = bytearray(saved.data)
    damaged[data.draw(places)] ^= mask
    saved.copy.write_bytes(damaged)
    with pytest.raises(CheckpointError):
        load_checkpoint(saved.copy)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_every_truncation_is_refused(saved: Saved, data) -> None:
    """A file that is cut short anywhere, or empty, or longer than it was, is refused."""
    cut = data.draw(st.integers(0, len(saved.data) - 1))
    for damaged in (saved.data[:cut], saved.data + b"\0"):
        saved.copy.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged, or is not a checkpoint"):
            load_checkpoint(saved.copy)


def test_a_write_that_fails_leaves_the_old_file(saved: Saved, tmp_path) -> None:
    """The system stops the write half-way. The old checkpoint is whole, and no temporary file is left."""
    path = tmp_path / BEST
    write_atomically(path, saved.data)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(saved.data) // 2, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomically(path, saved.data[::-1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == saved.data
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_checkpoint_is_named(tmp_path) -> None:
    """The message names the path: of a folder without a checkpoint, and of a folder that does not exist."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="there is no checkpoint at"):
            load_checkpoint(path)


def test_another_learner_class_is_refused(saved: Saved) -> None:
    """A checkpoint of MSR cannot be read as MAML."""
    with pytest.raises(CheckpointError, match="does not fit the learner"):
        load_checkpoint(saved.path, MAML)
