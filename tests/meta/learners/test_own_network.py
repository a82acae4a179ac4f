"""A network of one's own in a learner: what is random, what is frozen, which weights adapt, which activation."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from msr_runtime.errors import TrainingError
from msr_runtime.meta import LEARNERS, LearnerConfig
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.networks.activations import ACTIVATIONS
from msr_runtime.meta.networks.registry import make_network
from msr_runtime.meta.networks.written import written_out
from msr_runtime.meta.programs import registered
from msr_runtime.meta.training.outer import OuterLoss
from msr_runtime.meta.training.own_parts import require_trainable

IN, OUT = 6, 2
SUPPORT = torch.ones(5, IN), torch.ones(5, OUT)


def _net(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(IN, 8), *between, nn.Linear(8, OUT))


@pytest.fixture
def programs() -> Iterator[None]:
    """Some networks, by name."""
    made = {
        "plain": _net,
        "dropout": lambda: _net(nn.Dropout(0.5)),
        "batch norm": lambda: _net(nn.BatchNorm1d(8)),
        "attends": lambda: _net(
            nn.Unflatten(1, (2, 4)),
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0),
            nn.Flatten(),
        ),
    }
    with registered({("network", name): lambda *_, make=make, **__: make() for name, make in made.items()}):
        yield


def _learner(network: str, method: str = "maml", **changes: object) -> Learner:
    config = LearnerConfig.model_validate({"network": network, "inner_steps": 2} | changes)
    return LEARNERS[method](config, (IN,), (OUT,), "mse").train()


@pytest.mark.usefixtures("programs")
class TestOwnNetwork:
    def test_dropout_acts_in_the_outer_loop_alone(self) -> None:
        """Two adaptations are equal, two predictions are not, and in evaluation mode all are."""
        learner = _learner("dropout")
        assert learner.random
        first, second = (learner.adapt(*SUPPORT) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)
        x = torch.randn(32, IN)
        assert not torch.equal(learner(first, x), learner(first, x))
        assert learner.network.training
        learner.eval()
        assert torch.equal(learner(first, x), learner(first, x))

    @pytest.mark.parametrize("recompute", [False, True])
    def test_each_task_has_its_own_dropout(self, recompute) -> None:
        """The outer loss of equal tasks differs."""
        loss = OuterLoss(_learner("dropout"), recompute=recompute).train()
        torch.manual_seed(0)
        one, other = loss(*(part.expand(2, *part.shape) for part in (*SUPPORT, *SUPPORT)))
        assert one != other

    def test_running_statistics_stay(self) -> None:
        """Batch normalization is an affine layer in training, too, and its own numbers do not move."""
        learner = _learner("batch norm")
        before = {name: buffer.clone() for name, buffer in learner.network.named_buffers()}
        require_trainable(learner)
        learner.adapt(*SUPPORT)
        assert all(torch.equal(buffer, before[name]) for name, buffer in learner.network.named_buffers())
        assert not learner.random

    def test_what_torch_computes_by_one_kernel_trains(self) -> None:
        """An encoder layer, which torch can neither batch nor differentiate twice as it is; and torch is as it was."""
        require_trainable(_learner("attends"))
        assert torch.backends.mha.get_fastpath_enabled()

    def test_no_global_number_is_drawn(self) -> None:
        """What is looked at changes no number of a training."""
        torch.manual_seed(3)
        _net()
        wanted = torch.rand(1)
        torch.manual_seed(3)
        require_trainable(_learner("plain"))
        assert torch.rand(1) == wanted

    def test_activation_is_its_own(self) -> None:
        """The option is for built-in networks."""
        unused = Learner.unused(LearnerConfig(network="plain", activation="relu"))
        assert unused["activation"] == "the network 'plain' has activations of its own"

    def test_what_is_of_another_kind(self) -> None:
        """What is no rule, and what is no module, is named."""
        with registered({("rule", "r"): lambda *_, **__: 1, ("network", "n"): lambda *_, **__: 2}):
            with pytest.raises(TrainingError, match="rule 'r' made a int"):
                _learner("plain", rule="r")
            with pytest.raises(TrainingError, match="network 'n' returned a int"):
                _learner("n")


def test_written_layers_equal_torchs() -> None:
    """Up to rounding."""
    x, state = torch.randn(2, 5), (torch.randn(2, 4), torch.randn(2, 4))
    lstm, gru, slope = nn.LSTMCell(5, 4), nn.GRUCell(5, 4), nn.PReLU(5)
    wanted = *lstm(x, state), gru(x, state[0]), slope(x)
    with written_out():
        seen = *lstm(x, state), gru(x, state[0]), slope(x)
    torch.testing.assert_close(seen, wanted)


class TestAdapt:
    def test_only_what_the_patterns_name_adapts(self) -> None:
        """With and without a symmetry matrix, by the names of the weights."""
        plain = _learner("mlp", adapt=("layers.0.*", "*.bias"))
        assert plain.adapted_names == tuple(
            f"layers.{name}" for name in ("0.weight", "0.bias", "1.bias", "2.bias", "3.bias")
        )
        assert _learner("mlp", "msr", adapt=("layers.3.weight",)).adapted_names == (
            "layers.3.parametrizations.weight.original",
        )
        moved, start = plain.adapt(*SUPPORT), plain.start()
        assert moved.keys() == start.keys()

    def test_a_pattern_without_a_weight(self) -> None:
        """The weights there are are named."""
        with pytest.raises(
            TrainingError, match=r"'head\.\*', which matches none .*layers\.0\.weight, .*--learner.adapt"
        ):
            _learner("mlp", adapt=("layers.0.*", "head.*"))

    @pytest.mark.parametrize("method", ["anil", "cavia", "no-adaptation"])
    def test_methods_that_choose_themselves(self, method) -> None:
        """The option is one that they do not use."""
        assert LEARNERS[method].unused(LearnerConfig())["adapt"] == "the method itself says what adapts"


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_activations(name) -> None:
    """The default is SiLU, and each other one gives another network of the same weights."""
    outputs = {}
    for activation in ACTIVATIONS:
        torch.manual_seed(0)
        outputs[activation] = make_network(name, (6,), (6,), [4], activation=activation)(torch.ones(1, 6)).detach()
    torch.manual_seed(0)
    assert torch.equal(make_network(name, (6,), (6,), [4])(torch.ones(1, 6)), outputs["silu"])
    assert len({tuple(value.flatten().tolist()) for value in outputs.values()}) == len(ACTIVATIONS)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(("form", "terms"), [("full", 1), ("kronecker", 1)])
def test_a_pretrained_network_begins_at_its_function(form, terms) -> None:
    """A symmetry matrix behind every layer does not change what it computes."""
    torch.manual_seed(0)
    wanted = _net()
    x = torch.randn(20, IN)
    with registered({("network", "policy"): lambda *_, **__: wanted}):
        expected = wanted(x).detach()
        learner = _learner("policy", "msr", form=form, terms=terms)
    torch.testing.assert_close(learner(learner.start(), x).detach(), expected, atol=1e-5, rtol=1e-5)
