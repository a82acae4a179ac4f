"""The named exceptions of this project.

Every message names the thing, the value seen, the value wanted, the likely cause, and the option or field that mends
it. All exceptions share the base `MsrError`. The `msr` command catches it, prints the message and exits with code 2.
"""


class MsrError(Exception):
    """Base of every error that this project raises on purpose."""


class InputError(MsrError):
    """Raised when an array, an option or a recording handed to the runtime is unfit.

    Examples: a wrong shape or dtype, an empty array, a number that is not finite, an option out of its range.
    """


class FamilyError(MsrError):
    """Raised when a task family is unknown, cannot be imported or breaks the `TaskFamily` contract."""


class AugmentationError(MsrError):
    """Raised when the augmentation of a task family is not a symmetry of its tasks."""


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
