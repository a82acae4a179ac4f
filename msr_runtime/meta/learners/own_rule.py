"""A rule of your own, built from a configuration."""

from collections.abc import Mapping

from msr_runtime.errors import MsrError, TrainingError, line_of_users_code
from msr_runtime.meta.learners.config import RULES, LearnerConfig
from msr_runtime.meta.programs import find_program
from msr_runtime.meta.rules.rule import Rule


def make_own_rule(config: LearnerConfig, rates: Mapping[str, float]) -> Rule:
    """Build the rule that a configuration names.

    It is called with `(rates, steps, first_order=...)`. `rates` maps the name of each adapted tensor to its starting
    rate, so that a rule without rates can read it as the names alone.

    Raises:
        TrainingError: There is no such rule, its code fails, or it is no `Rule`.

    """
    assert config.rule is not None  # a learner's configuration is settled
    make = find_program("rule", config.rule, RULES)
    try:
        rule = make(rates, config.steps, first_order=config.first_order)
    except MsrError:
        raise
    except Exception as error:  # whatever the user's code raises
        where = line_of_users_code(error) or "its code"
        raise TrainingError(
            f"rule '{config.rule}' was called with a mapping of names to starting rates, {config.steps} steps "
            f"and first_order={config.first_order}, and raised {type(error).__name__}: {error}, in {where}; let it "
            "take these arguments"
        ) from error
    if not isinstance(rule, Rule):
        raise TrainingError(
            f"rule '{config.rule}' made a {type(rule).__name__}, but a class that derives from "
            "`msr_runtime.meta.rules.Rule` is wanted"
        )
    return rule
