"""The named exceptions of this project.

Every message names the thing, the value seen, the value wanted, the likely cause, and the option or field that mends
it. All exceptions share the base `MsrError`. The `msr` command catches it, prints the message and exits with code 2.
"""

import contextlib
import functools
import os
import sys
from pathlib import Path


class MsrError(Exception):
    """Base of every error that this project raises on purpose."""


class InputError(MsrError):
    """Raised when an array, an option or a recording handed to the runtime is unfit.

    Examples: a wrong shape or dtype, an empty array, a number that is not finite, an option out of its range.
    """


class FamilyError(MsrError):
    """Raised when a task family is unknown, cannot be imported or breaks the `TaskFamily` contract."""

    @classmethod
    def raised(cls, family: object, call: str, error: Exception) -> "FamilyError":
        """Return the error to raise where the code of a family fails.

        Args:
            family: The family.
            call: What was called, such as `augment(rng, x, y)`.
            error: What it raised.

        """
        where = line_of_users_code(error, family) or "its code"
        return cls(
            f"family '{_name(family)}': {call} failed with {type(error).__name__}: {error}, in {where}; correct "
            f"`{call.partition('(')[0]}`"
        )


class FamilyWarning(UserWarning):
    """Given when parts of a task family that should agree do not."""


class AugmentationError(MsrError):
    """Raised when the augmentation of a task family is not a symmetry of its tasks."""


class AugmentationWarning(UserWarning):
    """Given when it is in doubt whether the augmentation of a task family is a symmetry of its tasks."""


class CheckpointError(MsrError):
    """Raised when a checkpoint is missing, is damaged or belongs to another configuration."""


class TrainingError(MsrError):
    """Raised when meta-training cannot start or go on.

    Examples: a network that does not fit the samples' shapes, or outer gradients that are no longer finite.
    """


class ExportError(MsrError):
    """Raised when a learner cannot be exported as a bundle."""


class ParityError(ExportError):
    """Raised when ONNX Runtime and torch disagree on an exported graph by more than the tolerance."""


class BundleError(MsrError):
    """Raised when a bundle or a saved adaptation is incomplete, damaged, unfit or of an unknown format version."""


class ContractError(BundleError):
    """Raised when an intact bundle does not fit the robot: its fields or its control rate differ."""


class SignatureError(BundleError):
    """Raised when a bundle is unsigned, or no trusted key signed it."""


class KeyFileError(MsrError):
    """Raised when the file of a signing key is missing, holds something else, or would be overwritten."""


class ProviderError(MsrError):
    """Raised when a requested execution provider of ONNX Runtime does not start or cannot run a graph."""


class WireError(MsrError):
    """Raised when bytes are not a message of the policy server's protocol, or a value cannot be encoded as one."""


class ServerError(MsrError):
    """Raised when a policy server cannot start: its address, token, limits or models are unfit."""


class RealTimeError(MsrError):
    """Raised when the system refuses real-time scheduling or locked memory."""


def line_of_users_code(error: BaseException, family: object = None) -> str | None:
    """Return file and line of the user's code that raised an error, or called what raised it. None if there is none.

    Code is the user's if it belongs neither to this project, nor to Python, nor to an installed package.

    Args:
        error: The error, as it was caught.
        family: A task family, whose code counts too where it is installed.

    Example:
        >>> from msr_runtime.errors import line_of_users_code
        >>> try:
        ...     float("fast")
        ... except ValueError as error:
        ...     print(line_of_users_code(error))  # these lines lie in no file
        None

    """
    import traceback  # a robot does without

    names = {part.__module__ for part in type(family).__mro__ if part.__module__.partition(".")[0] not in _PROJECT}
    own = {getattr(sys.modules.get(name), "__file__", None) for name in names}
    frames = traceback.extract_tb(error.__traceback__)
    found = [f"{at.filename}, line {at.lineno}" for at in frames if at.filename in own or _is_users(at.filename)]
    return found[-1] if found else None


_PROJECT = ("msr_runtime", "msr_envs", "msr_export", "msr_c")


@functools.cache
def _others() -> tuple[str, ...]:
    """Where code is not the user's: this project, also as a checkout, Python and installed packages."""
    import sysconfig

    root, places = Path(__file__).parents[1], ("msr_runtime", "envs/msr_envs", "export/msr_export", "export/msr_c")
    return (
        *(f"{root / place}{os.sep}" for place in places),
        *(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib")),
        "<",  # code without a file, such as that of Python's own importer
    )


def _is_users(path: str) -> bool:
    return not path.startswith(_others())


def _name(family: object) -> str:
    with contextlib.suppress(Exception):  # it may be a property that fails
        if isinstance(name := getattr(family, "name", None), str):
            return name
    return type(family).__name__
