"""A network, a rule and a method of the user's own: named by the user, tried before training, never run from a file."""

from pathlib import Path

import pytest

from msr_runtime.cli.programs import Programs, load_own
from msr_runtime.errors import CheckpointError, InputError, TrainingError
from msr_runtime.meta.programs import find_program

PARTS = """
import torch
from torch import nn
from msr_runtime.meta import LEARNERS
from msr_runtime.meta.rules import LOSSES, Rule

open("ran", "w").close()


class Net(nn.Module):
    def __init__(self, inputs, outputs, widths, *, bias=True):
        super().__init__()
        self.first, self.norm = nn.Linear(inputs[0], widths[0], bias=bias), nn.LayerNorm(widths[0])
        self.last = nn.Linear(widths[0], outputs[0], bias=bias)

    def forward(self, x):
        return self.last(nn.functional.gelu(self.norm(self.first(x))))


class OneRate(Rule):
    def __init__(self, rates, steps, *, first_order=False):
        super().__init__(steps, first_order=first_order)
        self.rate = nn.Parameter(torch.tensor(max(rates.values())))

    def step(self, index, forward, loss, adapted, support_x, support_y):
        def of(adapted):
            return LOSSES[loss](forward(adapted, support_x), support_y)

        gradients, before = torch.func.grad_and_value(of)(adapted)
        return {name: tensor - self.rate * gradients[name] for name, tensor in adapted.items()}, before


class Half(LEARNERS["maml"]):
    name = "half"


def mixes(inputs, outputs, widths, *, bias=True):
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    return nn.Sequential(nn.Linear(inputs[0], 8), norm, nn.Linear(8, outputs[0]))


def scalar(inputs, outputs, widths, *, bias=True):
    return nn.Linear(inputs[0], 1)


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.i0e(x)


def bessel(inputs, outputs, widths, *, bias=True):
    return nn.Sequential(nn.Linear(inputs[0], 4), Bessel(), nn.Linear(4, outputs[0]))


def no_number(inputs, outputs, widths, *, bias=True):
    layer = nn.Linear(inputs[0], outputs[0])
    return nn.Sequential(layer, nn.Threshold(0.0, float("nan")))


def wants_a_file(inputs, outputs, widths, *, bias=True):
    raise FileNotFoundError("weights.pt")
"""
QUICK = ["--learner.width", 8, "--learner.depth", 1, "--settings.insist-on-augmentation", "--settings.steps", 2]
QUICK += ["--settings.training-tasks", 16, "--settings.samples-per-task", 32]


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's programs, beside a family."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "parts.py").write_text(PARTS)
    (folder / "push.py").write_text((trained / "push.py").read_text())
    return folder


@pytest.mark.usefixtures("few_tasks", "no_doubts")
def test_all_three_from_training_to_a_bundle(folder, monkeypatch, msr, refusal, capsys) -> None:
    """Each command is given them, by any name, and without them a checkpoint is refused and nothing is run."""
    monkeypatch.chdir(folder)
    own = ["--learner.network", "parts.py:Net", "--learner.rule", "parts.py:OneRate", "--method", "parts.py:Half"]
    own += ["--learner.adapt", "norm.*", "last.*"]
    assert msr("train", "push.py:Push", "run", *QUICK, *own) == 0
    capsys.readouterr()
    (folder / "ran").unlink()
    family = ["--family", "push.py:Push"]
    assert msr("export", "run", "bundle", *family) == 2
    said = refusal()
    assert "there is no method 'parts.py:Half'" in said
    assert "none is run because a file names it: give it with --method" in said
    assert msr("train", "push.py:Push", "run", "--resume", "--settings.steps", 3) == 2
    assert "give it with --method" in refusal()
    assert not (folder / "ran").exists()
    again = [str(folder / part) if ":" in part else part for part in own[:6]]
    assert msr("export", "run", "bundle", *family, *again) == 0
    assert msr("evaluate", "run", *family, *again, "--tasks", 2) == 0
    assert msr("info", "bundle") == 0
    out = capsys.readouterr().out
    assert "half" in out
    assert "OneRate" in out
    assert msr("train", "push.py:Push", "run", "--resume", "--settings.steps", 3, *own[:6]) == 0


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("mixes", "gives another output for a sample among 2 than among 16 samples"),
        ("scalar", "maps x of shape (16, 2) to (16, 1), but y of shape (16, 2) is wanted"),
        ("no_number", "gives nan for x near one, but finite outputs are wanted"),
        ("wants_a_file", "raised FileNotFoundError: weights.pt, in "),
        ("absent", "has no attribute 'absent'"),
        ("bessel", "cannot be exported, because of layer '1', a Bessel: "),
    ],
)
def test_what_cannot_be_is_refused_before_training(network, says, folder, monkeypatch, msr, refusal, tmp_path) -> None:
    """In one sentence, which names the layer where there is one, and before a folder is made."""
    monkeypatch.chdir(folder)
    run = tmp_path / "run"
    own = ["--method", "maml", "--learner.network", f"parts.py:{network}"]
    assert msr("train", "push.py:Push", run, *QUICK, *own) == 2
    assert says in refusal()
    assert not (run / "config.json").exists()


def test_a_program_that_a_checkpoint_does_not_need(trained) -> None:
    """A checkpoint of built-in parts takes no other network."""
    with pytest.raises(InputError, match=r"--learner.network is json:loads, but .* built-in network 'mlp'"):
        load_own(trained / "run", Programs(network="json:loads"), None)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_own(trained / "absent", Programs(), None)


def test_an_installed_package_registers_its_programs(tmp_path, monkeypatch) -> None:
    """Its name then suffices everywhere, as with families."""
    about = tmp_path / "nets-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nets\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[msr.networks]\nnet-1 = own_nets_1:Net\nbroken-1 = own_nets_2:Net\n")
    (tmp_path / "own_nets_1.py").write_text("Net = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_program("network", "net-1", ()) == 1
    with pytest.raises(TrainingError, match="registered as own_nets_2:Net, which could not be imported"):
        find_program("network", "broken-1", ())
    with pytest.raises(TrainingError, match="there is no rule 'net-1'; the rules are gradient"):
        find_program("rule", "net-1", ("gradient",))
