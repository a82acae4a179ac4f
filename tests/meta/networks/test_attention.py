"""Attention to a support set: what a block computes, and of what an answer depends."""

import pytest
import torch
from torch import nn

from msr_runtime.meta.networks.attention import AttentionBlock, InContextNetwork


@pytest.fixture
def network() -> InContextNetwork:
    torch.manual_seed(0)
    return InContextNetwork(inputs=3, labels=2, outputs=4, width=8, blocks=2).double()


@pytest.fixture
def support() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)


@pytest.mark.parametrize(("width", "heads"), [(8, 4), (6, 2), (5, 1)])
def test_a_block_computes_attention_of_several_heads(width: int, heads: int) -> None:
    """As torch's own attention does, with the same numbers. A width that four does not divide has fewer heads."""
    torch.manual_seed(0)
    block, torchs = AttentionBlock(width, 1.0).double(), nn.MultiheadAttention(width, heads).double()
    assert block.heads == heads
    with torch.no_grad():
        layers = (block.query, block.key, block.value)
        torchs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        torchs.in_proj_bias.copy_(torch.cat([block.query.bias, torch.zeros(width).double(), block.value.bias]))
    torchs.out_proj.load_state_dict(block.mix.state_dict())
    tokens, shots = torch.randn(5, width, dtype=torch.float64), torch.randn(3, width, dtype=torch.float64)
    normal, memory = block.norm(tokens), block.norm(shots)
    read = tokens + torchs(normal, memory, memory)[0]
    torch.testing.assert_close(block(tokens, *block.remember(shots)), read + block.feed(block.feed_norm(read)))


def test_an_answer_depends_on_its_own_x_and_on_all_of_the_support(network, support) -> None:
    """Not on the order of the support samples, nor on the other x beside it."""
    x, order = torch.randn(5, 3, dtype=torch.float64), torch.tensor([3, 1, 5, 0, 2, 4])
    answers = network(x, *network.remember(*support))
    assert answers.shape == (5, 4)
    torch.testing.assert_close(network(x, *network.remember(*(part[order] for part in support))), answers)
    torch.testing.assert_close(network(x[2:3], *network.remember(*support)), answers[2:3])
    for part in support:
        other = part.clone()
        other[4, 0] += 1
        changed = [other if one is part else one for one in support]
        assert ((network(x, *network.remember(*changed)) - answers).abs().amax(1) > 1e-6).all()


def test_a_support_set_may_have_any_number_of_samples(network, support) -> None:
    """Also none. A sample that stands there twice counts twice, so a whole set twice changes nothing."""
    x = torch.randn(5, 3, dtype=torch.float64)
    once, twice = (network(x, *network.remember(*(p.repeat(n, 1) for p in support))) for n in (1, 2))
    torch.testing.assert_close(once, twice)
    nothing = network(x, *network.remember(*(part[:0] for part in support)))
    assert nothing.isfinite().all()
    assert not torch.allclose(nothing, once)
