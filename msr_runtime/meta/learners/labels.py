"""Labels as numbers that a network computes with."""

import torch
from torch import Tensor


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return labels `(samples,)` as rows `(samples, classes)` with 1 at the label and 0 elsewhere.

    It compares, since `torch.nn.functional.one_hot` of torch 2.9 cannot be traced for any number of samples.
    """
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(dtype)
