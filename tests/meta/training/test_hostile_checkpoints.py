"""A checkpoint that was made to harm, with a correct digest, ends in one sentence before anything is built."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save

from msr_envs.images import Images
from msr_runtime.errors import CheckpointError
from msr_runtime.meta.learners.config import LearnerConfig
from msr_runtime.meta.learners.methods import LEARNERS
from msr_runtime.meta.training import checkpoint as module
from msr_runtime.meta.training.checkpoint import LAST, build_learner, load_checkpoint, save_checkpoint
from msr_runtime.meta.training.config import TrainConfig
from msr_runtime.meta.training.run import open_run
from msr_runtime.normalization import Normalization

SCALING = Normalization(
    input_center=(0.0, 0.0), input_scale=(1.0, 1.0), output_center=(0.0, 0.0), output_scale=(1.0, 1.0)
)


@pytest.fixture(scope="module")
def config(training) -> TrainConfig:
    """The configuration of a small run of MSR."""
    return training.config(training.Plane())


def write(path: Path, config: TrainConfig, claimed: TrainConfig | None = None, **changes: Any) -> Path:
    """Write a checkpoint whose learner is that of `config`, and which claims another configuration."""
    learner = build_learner(config)
    saved = {"normalization": SCALING, "step": 3, "best": 0.5} | changes
    save_checkpoint(path / LAST, config=claimed or config, learner=learner, **saved)
    return path / LAST


def refused(path: Path) -> str:
    """The sentence by which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    said = str(caught.value)
    assert "\n" not in said
    assert path.name in said
    return said


@pytest.mark.parametrize(
    ("method", "learner", "says"),
    [
        ("msr", {"width": 200_000}, "its width is 200,000, but the file holds "),
        ("msr", {"width": (3_000, 3_000, 3_000), "depth": 3}, "its network has"),
        ("maml", {"width": 3_000, "depth": 3}, "its network has 18,"),
        ("msr", {"depth": 1_000_000}, "its depth is 1,000,000, but the file holds "),
        ("msr", {"filters": 10**12}, "its filters is 1,000,000,000,000"),
        ("maml-big", {"filters": 10_000, "width": 1_000}, "its network has"),
        ("msr", {"form": "kronecker", "terms": 10**9}, "its terms is 1,000,000,000"),
        ("cavia", {"context": 10**12}, "its context is"),
        ("function-encoder", {"context": 10_000}, "its context is 10,000, but the file holds "),
        ("function-encoder", {"context": 2_000, "width": 900}, "its network has 3,6"),
        ("msr", {"network": "local"}, "set depth to 0"),
        ("msr", {"form": "equivariant"}, "needs the group's matrices"),
        ("mamel", {}, "there is no method 'mamel'"),
    ],
)
def test_a_network_that_is_not_in_the_file_is_never_built(
    config, tmp_path, monkeypatch, method: str, learner: dict[str, Any], says: str
) -> None:
    """Its sizes are compared with the numbers that the file holds. Little memory is asked for."""
    parts = config.learner.model_dump() | learner
    claimed = config.model_copy(update={"method": method, "learner": LearnerConfig.model_validate(parts)})
    path = write(tmp_path, config, claimed)
    empty = torch.nn.init.orthogonal_
    monkeypatch.setattr(torch.nn.init, "orthogonal_", lambda t, **k: empty(t, **k) if t.numel() < 10**6 else 1 / 0)
    assert says in refused(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"normalization": SCALING.model_copy(update={"input_scale": (1.0,)})}, "input_scale has shape (1,), but (2,)"),
        ({"normalization": SCALING.model_copy(update={"output_scale": (1.0, 0.0)})}, "a scale that is not above 0"),
        ({"normalization": SCALING.model_copy(update={"input_center": (0.0, math.nan)})}, "is not finite"),
        ({"step": -1}, "step: Input should be greater than or equal to 0"),
        ({"best": "low"}, "best: Input should be a valid number"),
    ],
)
def test_figures_that_no_run_has_are_refused(config, tmp_path, changes: dict[str, Any], says: str) -> None:
    """The normalization must be that of the fields, and the state must be numbers."""
    assert says in refused(write(tmp_path, config, **changes))


def test_a_seed_that_no_generator_takes_is_refused(config, tmp_path) -> None:
    """It has more than the 64 bits of a seed."""
    settings = config.settings.model_copy(update={"seed": 10**30})
    assert "settings.seed: Input should be less than" in refused(
        write(tmp_path, config, config.model_copy(update={"settings": settings}))
    )


def test_tensors_of_another_shape_are_named(config, tmp_path) -> None:
    """The first one that does not fit, with both shapes."""
    wider = config.model_copy(update={"learner": config.learner.model_copy(update={"width": 9})})
    assert "layers.0.parametrizations.weight.0.U' has shape (16, 6), but (18, 6) is wanted" in refused(
        write(tmp_path, config, wider)
    )


def test_a_group_of_another_shape_is_refused(training, config, tmp_path) -> None:
    """The matrices act on numbers that the layer has not."""
    learner = config.learner.model_copy(update={"form": "equivariant"})
    named = config.model_copy(update={"learner": learner})
    built = build_learner(named, group=training.Plane().group())
    built.group = training.Plane().group()._replace(inputs=np.eye(3)[None].repeat(4, 0))
    save_checkpoint(tmp_path / LAST, config=named, learner=built, normalization=SCALING, step=3, best=0.5)
    assert "describes a learner that cannot be built" in refused(tmp_path / LAST)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ({"0.exp_avg": torch.zeros(1, 10**4)}, "tensor '0.exp_avg' has shape (1, 10000)"),
        ({"99.step": torch.tensor(1.0)}, "tensor '99.step' has shape () and dtype torch.float32, but there is no such"),
        ({"x": torch.tensor(1.0)}, "there is no such tensor"),
        ({"0.step": torch.tensor(1.0)}, "it has no tensor '0.exp_avg' of the optimizer"),
    ],
)
def test_a_run_does_not_resume_with_another_optimizer(config, tmp_path, optimizer: Any, says: str) -> None:
    """It is refused when the folder is opened, not after the tasks were simulated."""
    write(tmp_path, config, optimizer=optimizer)
    with pytest.raises(CheckpointError) as caught:
        open_run(tmp_path, None, resume=True)
    assert says in str(caught.value)


def test_a_header_that_claims_to_be_huge_is_refused(tmp_path) -> None:
    """The file says that its header has a terabyte, or its header is no JSON, or a tensor lies outside of the file."""
    tensor = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    for data in (
        (2**40).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{" * 100,
        len(tensor).to_bytes(8, "little") + tensor,
    ):
        (tmp_path / LAST).write_bytes(data)
        assert "is damaged, or is not a checkpoint" in refused(tmp_path / LAST)


def test_a_missing_entry_is_named(config, tmp_path) -> None:
    """Also if the digest is right."""
    path = write(tmp_path, config)
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in ("config", "normalization", "state"):
        less = {key: value for key, value in header.items() if key not in (name, "sha256")}
        path.write_bytes(save(tensors, less | {"sha256": module._digest(less, tensors)}))
        assert f"'{name}' is missing" in refused(path)


@pytest.mark.parametrize("method", sorted(LEARNERS.keys() - {"protonets", "orbit-prototypes"}))
@pytest.mark.parametrize(
    "learner",
    [{}, {"width": 64, "filters": 1}, {"form": "kronecker"}, {"form": "equivariant", "width": 64, "filters": 1}],
    ids=str,
)
def test_every_honest_checkpoint_is_read(training, config, tmp_path, method: str, learner: dict[str, Any]) -> None:
    """No method and no form has so many more numbers than its file that it is taken for a hostile one."""
    parts = LearnerConfig.model_validate(config.learner.model_dump() | learner)
    named = config.model_copy(update={"method": method, "learner": parts})
    built = build_learner(named, group=training.Plane().group())
    save_checkpoint(tmp_path / LAST, config=named, learner=built, normalization=SCALING, step=3, best=0.5)
    assert load_checkpoint(tmp_path / LAST).learner.adapted_size() == built.adapted_size()


def test_filters_that_hold_many_poses_are_read(config, image_file: Path, tmp_path) -> None:
    """Each number of a bank that holds flips and turns is in eight weights, so the file holds far fewer than these."""
    parts = LearnerConfig(network="conv-grid", width=64, depth=2, grid_group="D4")
    named = TrainConfig.of(Images(image_file, ways=2), "orbit-prototypes", parts, config.settings)
    built = build_learner(named)
    scaling = Normalization(
        input_center=(((0.0,),),), input_scale=(((1.0,),),), output_center=(0.0,) * 2, output_scale=(1.0,) * 2
    )
    save_checkpoint(tmp_path / LAST, config=named, learner=built, normalization=scaling, step=3, best=0.5)
    assert load_checkpoint(tmp_path / LAST).learner.adapted_size() == built.adapted_size()


def test_the_largest_memory_is_read(config, tmp_path) -> None:
    """More is refused before training, since its checkpoint would be taken for a hostile one."""
    filters = {"rule": "recursive", "inner_steps": None}
    largest = LearnerConfig.model_validate(config.learner.model_dump() | filters | {"memory": 10_000})
    assert load_checkpoint(write(tmp_path, config.model_copy(update={"learner": largest}))).config.learner == largest
    with pytest.raises(ValidationError, match="less than or equal to 10000"):
        LearnerConfig(rule="recursive", memory=10_001)
