"""A zoo of networks as robots have them, under both kinds of rules.

Each is trained, exported, compared with torch and replayed as a robot does at its start, or refused before training in
one sentence.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from msr_export import check_exportable, export_checkpoint
from msr_runtime import AdaptiveModel
from msr_runtime.errors import ExportError, TrainingError
from msr_runtime.meta import LEARNERS, LearnerConfig, TrainConfig, TrainSettings, load_checkpoint, train
from msr_runtime.meta.programs import registered
from msr_runtime.meta.training.own_parts import require_trainable
from msr_runtime.task import Field, Loss, Split, TaskBatch

IN, OUT, WIDTH = 16, 2, 8
RULES = {
    "gradient": {"rule": "gradient", "inner_steps": 2, "inner_rate": 0.01},
    "gauss-newton": {"rule": "gauss-newton", "inner_steps": 1, "damping": 1.0},
}


class Mixed:
    """y is an unknown mixture of the numbers of x."""

    name = "mixed"
    inputs: tuple[Field, ...] = (Field(name="x", shape=(IN,), unit="1", low=-9.0, high=9.0),)
    outputs: tuple[Field, ...] = (Field(name="y", shape=(OUT,), unit="1", low=-9.0, high=9.0),)
    loss: Loss = "mse"
    query_sets: tuple[str, ...] = ("all",)

    def sample(self, rng: np.random.Generator, tasks: int, shots: int, queries: int, split: Split) -> TaskBatch:
        """Draw tasks."""
        x = rng.normal(size=(tasks, shots + queries, IN)).astype(np.float32)
        y = np.tanh(x @ rng.normal(size=(tasks, IN, OUT), scale=0.3)).astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def augment(self, rng: np.random.Generator, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Change nothing."""
        return x, y


class Shaped(nn.Module):
    """Gives a sample another shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.shape)


class Residual(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(x)


class Attention(nn.Module):
    """Four parts of x attend to each other with two heads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embed, self.join, self.out = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(4 * WIDTH, OUT)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.join(self.embed(x.unflatten(1, (4, 4))))
        q, k, v = tokens.unflatten(2, (2, -1)).transpose(1, 2).chunk(3, dim=-1)
        if self.kind == "written out":
            y = torch.softmax(q @ k.mT / k.shape[-1] ** 0.5, -1) @ v
        else:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.kind == "causal")
        return self.out(y.transpose(1, 2).flatten(1))


class Layer(nn.Module):
    """One of torch's own layers that attend."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embed, self.layer, self.out = nn.Linear(4, WIDTH), layer, nn.Linear(4 * WIDTH, OUT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unflatten(1, (4, 4)))
        y = (
            self.layer(x, x, x, need_weights=False)[0]
            if isinstance(self.layer, nn.MultiheadAttention)
            else self.layer(x)
        )
        return self.out(y.flatten(1))


class Cell(nn.Module):
    """A recurrent cell, unrolled over four parts of x."""

    def __init__(self, cell: nn.GRUCell | nn.LSTMCell) -> None:
        super().__init__()
        self.cell, self.out = cell, nn.Linear(WIDTH, OUT)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], WIDTH)
        c = h
        for part in x.unflatten(1, (4, 4)).unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(part, (h, c))
            else:
                h = self.cell(part, h)
        return self.out(h)


class Sequence(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(WIDTH, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x.unflatten(1, (4, 4)))[0][:, -1])


class Embedded(nn.Module):
    """The first number of x is a mode, of which there are five."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layers = nn.Embedding(5, 3), mlp(nn.SiLU(), inputs=IN + 3)

    def forward(self, x: Tensor) -> Tensor:
        mode = (x[:, 0] + 2).round().clamp(0, 4).long()
        return self.layers(torch.cat([x, self.table(mode)], 1))


class Modulated(nn.Module):
    """Some numbers of x scale and shift the features of all (FiLM)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale, self.out = nn.Linear(IN, WIDTH), nn.Linear(4, 2 * WIDTH), nn.Linear(WIDTH, OUT)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale(x[:, :4]).chunk(2, 1)
        return self.out(torch.tanh(self.first(x) * (1 + scale) + shift))


class Waves(nn.Module):
    """Fixed Fourier features."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", torch.randn(IN, 6))
        self.layers = mlp(nn.SiLU(), inputs=12)

    def forward(self, x: Tensor) -> Tensor:
        phases = x @ self.get_buffer("waves")
        return self.layers(torch.cat([phases.sin(), phases.cos()], 1))


class Parts(nn.Module):
    """A set of four parts of x, in any order (Deep Sets)."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.out = nn.Sequential(nn.Linear(4, WIDTH), nn.SiLU()), nn.Linear(2 * WIDTH, OUT)

    def forward(self, x: Tensor) -> Tensor:
        features = self.part(x.unflatten(1, (4, 4)))
        return self.out(torch.cat([features.mean(1), features.amax(1)], 1))


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0e(x)


class Experts(nn.Module):
    """A mixture of experts in one sum of three factors."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(IN, 3), nn.Parameter(torch.randn(3, OUT, IN))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ne,eoi,ni->no", self.gate(x).softmax(-1), self.experts, x)


class Groups(nn.Module):
    """Cuts the samples at a number that it computes as a plain integer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        half = int(x.shape[0]) // 2
        return torch.cat([self.layers(x[:half]), self.layers(x[half:])])


def mlp(*between: nn.Module, inputs: int = IN, width: int = WIDTH) -> nn.Sequential:
    """A hidden layer, with some layers behind it."""
    return nn.Sequential(nn.Linear(inputs, width), *between, nn.Linear(WIDTH, OUT))


def image(*layers: nn.Module, last: int) -> nn.Sequential:
    """Layers on x as an image of 4 x 4."""
    return nn.Sequential(Shaped(1, 4, 4), *layers, nn.Flatten(), nn.Linear(last, OUT))


def _filters(channels: int = 4) -> nn.Conv2d:
    return nn.Conv2d(1, channels, 3, padding=1)


ZOO: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: mlp(nn.LayerNorm(WIDTH), nn.SiLU()),
    "rms norm": lambda: mlp(nn.RMSNorm(WIDTH), nn.SiLU()),
    "group norm": lambda: image(_filters(), nn.GroupNorm(2, 4), nn.ReLU(), last=64),
    "instance norm": lambda: image(_filters(), nn.InstanceNorm2d(4), nn.ReLU(), last=64),
    "batch norm": lambda: image(_filters(), nn.BatchNorm2d(4), nn.ReLU(), last=64),
    "dropout": lambda: mlp(nn.SiLU(), nn.Dropout(0.2)),
    "gelu": lambda: mlp(nn.GELU()),
    "gated": lambda: mlp(nn.GLU(), width=2 * WIDTH),
    "learned slope": lambda: mlp(nn.PReLU(WIDTH)),
    "residual": lambda: mlp(Residual(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU()))),
    "embedding": Embedded,
    "modulated": Modulated,
    "fourier": Waves,
    "experts": Experts,
    "set": Parts,
    "convolution": lambda: nn.Sequential(
        Shaped(2, 8), nn.Conv1d(2, 4, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(12, OUT)
    ),
    "depthwise": lambda: image(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), last=16),
    "pooling": lambda: image(_filters(), nn.ReLU(), nn.MaxPool2d(2), last=16),
    "mean of an image": lambda: image(_filters(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), last=4),
    "transposed": lambda: image(nn.Conv2d(1, 3, 3), nn.SiLU(), nn.ConvTranspose2d(3, 2, 3, stride=2), last=50),
    "attention, written out": lambda: Attention("written out"),
    "attention": lambda: Attention("plain"),
    "causal attention": lambda: Attention("causal"),
    "heads": lambda: Layer(nn.MultiheadAttention(WIDTH, 2, batch_first=True)),
    "transformer": lambda: Layer(nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.1, batch_first=True)),
    "gru cell": lambda: Cell(nn.GRUCell(4, WIDTH)),
    "lstm cell": lambda: Cell(nn.LSTMCell(4, WIDTH)),
}
DAILY = {
    ("layer norm", "gradient"),
    ("dropout", "gradient"),
    ("attention", "gradient"),
    ("experts", "gradient"),
    ("layer norm", "gauss-newton"),
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "norm over the batch": (
        lambda: mlp(nn.BatchNorm1d(WIDTH, track_running_stats=False)),
        "another output for a sample among 2 than among 16 samples",
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(IN, OUT))),
        r"layer '0' that torch computes from others \(WeightNorm\)",
    ),
    "special function": (lambda: mlp(Bessel()), "cannot be exported, because of layer '1', a Bessel: .*i0e"),
    "in groups of samples": (
        Groups,
        "the network Groups cannot be exported: .* holds for one number of samples",
    ),
    "recurrent layer": (
        lambda: Sequence(nn.GRU(4, WIDTH, batch_first=True)),
        "recurrent layer 'layer', a GRU, .* unroll nn.GRUCell",
    ),
    "float64": (lambda: mlp(nn.SiLU()).double(), "float32 is wanted; return network.float"),
}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        pytest.param(name, rule, marks=[] if (name, rule) in DAILY else [pytest.mark.slow])
        for name in ZOO
        for rule in RULES
    ],
)
def test_it_trains_and_runs_on_the_robot(name: str, rule: str, tmp_path: Path) -> None:
    """A checkpoint of three outer steps becomes a bundle that equals torch, loads and adapts."""
    family = Mixed()
    learner = LearnerConfig.model_validate({"network": "own", **RULES[rule]})
    settings = TrainSettings(
        steps=3, tasks_per_step=2, shots=6, queries=8, training_tasks=4, samples_per_task=16, validation_tasks=2
    )
    config = TrainConfig.of(family, "maml", learner, settings)
    with registered({("network", "own"): lambda *_, **__: ZOO[name]()}):
        assert train(family, config, tmp_path / "run", progress=False).finished
        checkpoint = load_checkpoint(tmp_path / "run")
    bundle = export_checkpoint(checkpoint, tmp_path / "bundle", family=family, validation_tasks=2)
    model = AdaptiveModel.load(bundle)  # replays the golden example
    batch = family.sample(np.random.default_rng(1), 1, 9, 5, "test")
    assert model.adapt(batch.support_x[0], batch.support_y[0]).loss_after < np.inf
    assert np.isfinite(model.predict(batch.query_x[0])).all()


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_training(name: str) -> None:
    """In one sentence that names the layer or the operation."""
    make, says = REFUSED[name]
    with pytest.raises((TrainingError, ExportError), match=says) as refused:
        _look_at(make)
    assert "\n" not in str(refused.value)


def _look_at(make: Callable[[], nn.Module]) -> None:
    """What `msr train` does before anything else."""
    with registered({("network", "own"): lambda *_, **__: make()}):
        learner = LEARNERS["maml"](LearnerConfig(network="own"), (IN,), (OUT,), "mse")
    require_trainable(learner)
    check_exportable(learner)
