"""One outer step on random numbers, before a network, a rule or a method of your own trains for long."""

import copy

import torch

from msr_runtime.errors import MsrError, TrainingError, line_of_users_code
from msr_runtime.meta.learners.learner import Learner
from msr_runtime.meta.training.outer import OuterLoss, outer_gradient

_TASKS, _SAMPLES = 2, 4
"""Tasks of the step, and samples of each support and query set."""


def require_trainable(learner: Learner) -> None:
    """Refuse a learner with parts of your own if the outer loop cannot be differentiated through them.

    Nothing of the learner is changed, and no global random number is drawn.

    Raises:
        TrainingError: The step fails. The message names what torch says, and the line of the user's code.

    """
    if not learner.own:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(2, _TASKS, _SAMPLES, *learner.inputs)
        y = torch.randn(2, _TASKS, _SAMPLES, *learner.outputs)
        if learner.classifies:
            y = torch.randint(learner.outputs[0], (2, _TASKS, _SAMPLES))
        loss = OuterLoss(copy.deepcopy(learner)).train()
        try:
            outer_gradient(loss)([x[0], y[0], x[1], y[1]])
        except MsrError:
            raise
        except Exception as error:  # whatever torch or the user's code raises
            where = line_of_users_code(error)
            raise TrainingError(
                f"method '{learner.name}' with the network {type(learner.network).__name__} cannot be meta-trained: "
                f"{str(error).splitlines()[0]}{f', in {where}' if where else ''}; the outer loop differentiates the "
                "inner loop, for all tasks at once (torch.func.vmap): replace the operation that the message names by "
                "basic ones"
            ) from error
