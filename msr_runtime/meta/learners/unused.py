"""Options that a configuration sets and nothing uses.

A run whose configuration says what was not done misleads. So such options are refused by name, before anything is
simulated.
"""

from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from msr_runtime.errors import TrainingError
from msr_runtime.meta.learners.config import PLAIN, PLAIN_STEPS, RULES, LearnerConfig
from msr_runtime.meta.networks.registry import NETWORKS

FILTER: tuple[str, ...] = ("memory", "gate", "relinearize", "time_constant", "objective")
"""The options of the rule `recursive` alone."""
INNER_LOOP: tuple[str, ...] = ("rule", "inner_steps", "inner_rate", "step_rates", "damping", "first_order", *FILTER)
"""The options of `LearnerConfig` that say how a support set moves what adapts. The others size the network."""


def unused_by_rule(config: LearnerConfig) -> dict[str, str]:
    """Return the options that the configured rule does not use: name to reason."""
    if config.rule not in RULES:
        why = "a rule of your own is given the starting rates, the number of steps and first_order"
        return dict.fromkeys(("step_rates", "damping", *FILTER), why)
    unused: dict[str, str] = (
        {} if config.rule == "recursive" else dict.fromkeys(FILTER, f"the rule '{config.rule}' is no filter")
    )
    if config.rule == "gradient":
        return unused | {"damping": "the rule 'gradient' has no damping"}
    why = f"the rule '{config.rule}' has no inner rates, as '{PLAIN}' has (--learner.rule {PLAIN})"
    unused |= dict.fromkeys(("inner_rate", "step_rates"), why)
    if config.rule in ("ridge", "recursive"):
        unused["inner_steps"] = f"the rule '{config.rule}' takes one step"
    return unused


def unused_by_network(config: LearnerConfig) -> dict[str, str]:
    """Return the options of sizes that a network of this configuration does not have: name to reason."""
    unused = {
        "context": f"the network '{config.network}' has no context",
        "temperature": "there are no prototypes",
    }
    if config.network not in ("conv", "conv-grid"):
        unused |= dict.fromkeys(("norm", "head"), f"the network '{config.network}' has none")
    holds = config.reparameterized and config.form in ("equivariant", "kronecker")
    if not (config.network == "conv-grid" and holds):
        unused["grid_group"] = "only the forms 'equivariant' and 'kronecker' of a 'conv-grid' network hold such a group"
    if not config.depth:
        unused |= dict.fromkeys(("width", "activation"), "with depth 0 there is no hidden layer")
    if config.network not in NETWORKS:
        unused["activation"] = f"the network '{config.network}' has activations of its own"
    if not config.reparameterized:
        return unused | dict.fromkeys(("filters", "form", "terms"), "the network has no symmetry matrix")
    if config.grid_group is not None and "grid_group" not in unused:
        if config.form == "equivariant":
            unused["filters"] = "the group says how many filter parameters there are"
        else:
            unused["terms"] = "there is one for each element of the group"
    if config.form != "kronecker":
        return unused | {"terms": f"the form '{config.form}' has no terms"}
    return unused if config.bias else unused | {"filters": "only the biases of the form 'kronecker' have filters"}


_USUAL = {"rule": PLAIN, "inner_steps": PLAIN_STEPS}
"""What a learner without a rule, or without steps, has there once its configuration is settled."""


def refuse_unused(
    name: str, config: BaseModel, unused: Mapping[str, str], options: Iterable[str], group: str = "learner"
) -> None:
    """Refuse a configuration that sets an option which is not used.

    Args:
        name: The method's name.
        config: Its configuration, or the settings of a run.
        unused: The options that are not used: name to reason.
        options: The names of the options to look at.
        group: What stands before the option's name on the command line.

    Raises:
        TrainingError: One of the options has not its default, and is not used.

    """
    for option in options:
        seen, default = getattr(config, option), type(config).model_fields[option].default
        usual = _USUAL.get(option, default)
        if option in unused and seen not in (default, usual):
            raise TrainingError(
                f"method '{name}' does not use the option {option}, but it is set to {seen!r}: {unused[option]}; leave "
                f"it at {usual!r} (--{group}.{option.replace('_', '-')}), or choose what uses it"
            )
