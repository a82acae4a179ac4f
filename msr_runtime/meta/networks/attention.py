"""A network that reads a support set by attention, and answers for x without any step.

The layers are written out as products of matrices and a softmax, so that `torch.func` maps them over tasks.

Sources: Vaswani et al., "Attention Is All You Need", 2017. The order of normalization: Xiong et al., "On Layer
Normalization in the Transformer Architecture", 2020. Which token attends to which: Nguyen and Grover, "Transformer
Neural Processes", 2022.
"""

import math

import torch
from torch import Tensor, nn

from msr_runtime.meta.networks.mlp import MLP


class AttentionBlock(nn.Module):
    """Attention of some tokens to remembered ones, and then a network of one hidden layer, each added to the tokens.

    Args:
        width: The length of a token.
        share: What is added starts this much smaller, so that a sum over many blocks starts as large as one.

    """

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.heads = math.gcd(width, _HEADS)
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.value, self.mix = (nn.Linear(width, width) for _ in range(3))
        # A bias would add the same number to a query's score of every key: the softmax does not see it.
        self.key = nn.Linear(width, width, bias=False)
        self.feed = MLP((width,), (width,), (_WIDER * width,))
        with torch.no_grad():
            for weight in (self.mix.weight, self.feed.get_parameter("layers.1.weight")):
                weight.mul_(share)

    def remember(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of tokens, each `(tokens, width)` like the tokens."""
        normal = self.norm(tokens)
        return self.key(normal), self.value(normal)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Let tokens `(tokens, width)` attend to keys and values `(shots, width)`. With no shots they read zeros."""
        queries, keys, values = (self._split(part) for part in (self.query(self.norm(tokens)), keys, values))
        scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
        read = (scores.softmax(-1) @ values).transpose(0, 1).flatten(1)
        tokens = tokens + self.mix(read)
        return tokens + self.feed(self.feed_norm(tokens))

    def _split(self, tokens: Tensor) -> Tensor:
        """Split tokens into `(heads, tokens, width / heads)`."""
        return tokens.unflatten(1, (self.heads, -1)).transpose(0, 1)


class InContextNetwork(nn.Module):
    """Attention of x to a support set: each sample of the support is one token, and so is each x to answer for.

    In every block, all tokens attend to the tokens of the support. No token attends to an x to answer for, so each
    answer depends on its own x and on the support alone, in whatever order its samples are.

    Args:
        inputs: The numbers of a sample's x.
        labels: The numbers of a support sample's y.
        outputs: The numbers of an answer.
        width: The length of a token.
        blocks: The number of blocks.

    """

    def __init__(self, inputs: int, labels: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.labels = labels
        # One more input tells the tokens of the support, 1, from those without y, 0.
        self.embedding = MLP((inputs + labels + 1,), (width,), (width,))
        self.blocks = nn.ModuleList(AttentionBlock(width, 1 / math.sqrt(2 * blocks)) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def remember(self, support_x: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor]:
        """Read a support set x `(shots, inputs)` and y `(shots, labels)`.

        Returns:
            Keys and values, each `(blocks, shots, width)`: all that an answer needs of the support.

        """
        tokens = self.embedding(torch.cat([support_x, support_y, torch.ones_like(support_x[:, :1])], 1))
        kept = []
        for block in self.blocks:
            assert isinstance(block, AttentionBlock)
            keys, values = block.remember(tokens)
            kept.append((keys, values))
            tokens = block(tokens, keys, values)
        keys, values = zip(*kept, strict=True)
        return torch.stack(keys), torch.stack(values)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map x `(samples, inputs)` to `(samples, outputs)`, with what `remember` returned."""
        tokens = self.embedding(torch.cat([x, torch.zeros_like(x[:, :1]).expand(-1, self.labels + 1)], 1))
        for block, *memory in zip(self.blocks, keys, values, strict=True):
            tokens = block(tokens, *memory)
        return self.head(self.norm(tokens))


_HEADS = 4
"""Heads of a block. A width that is no multiple of it gets fewer."""
_WIDER = 2
"""How many times wider than a token the hidden layer of a block is."""
