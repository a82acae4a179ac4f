"""Which of the tensors that could adapt do so: those that a user's patterns name."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from msr_runtime.errors import TrainingError


def chosen_names(names: tuple[str, ...], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a pattern matches, in their order.

    Args:
        names: The tensors that a method would adapt.
        patterns: Patterns as in `fnmatch`, such as `layers.2.*`. They match the names of the weights, without torch's
            words for a parametrization.

    Raises:
        TrainingError: A pattern matches none of the names.

    """
    weights = {name: name.replace("parametrizations.", "").removesuffix(".original") for name in names}
    for pattern in patterns:
        if names and not any(fnmatchcase(weight, pattern) for weight in weights.values()):
            raise TrainingError(
                f"adapt names '{pattern}', which matches none of the weights that can adapt: "
                f"{', '.join(weights.values())}; correct the pattern (--learner.adapt)"
            )
    return tuple(name for name, weight in weights.items() if any(fnmatchcase(weight, each) for each in patterns))
