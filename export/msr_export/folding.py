"""What the adapted tensors of a learner fold to: the weights with U multiplied out, and their names."""

from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.rules.rule import Tensors
from msr_runtime.meta.symmetry.reparameterize import fold


def folded_name(adapted: str) -> str:
    """The name of the weight that an adapted tensor makes: for a v, without torch's words for a parametrization."""
    return adapted.replace("parametrizations.", "").removesuffix(".original")


def folded_weights(learner: Learner, adapted: Tensors) -> Tensors:
    """The weights that `adapted` makes, with U multiplied out, by their folded names."""
    values = fold(learner.network, adapted)
    return {name: values[name] for name in map(folded_name, learner.adapted_names)}
