"""The named exceptions of this project.

Every message names the thing, the value seen, the value wanted and the likely cause, so that `str(error)` is the
one sentence a person needs. `MsrError` is what a command catches to print that sentence and exit with code 2.
"""


class MsrError(Exception):
    """Base of every error that this project raises on purpose."""


class InputError(MsrError):
    """Raised when an array handed to the runtime has a wrong shape or dtype, is empty or is not finite."""


class FamilyError(MsrError):
    """Raised when a task family is unknown, cannot be imported or breaks the TaskFamily contract."""


class AugmentationError(MsrError):
    """Raised when an augmentation is not a symmetry of the tasks it is to be trained on."""


class CheckpointError(MsrError):
    """Raised when a checkpoint is missing, damaged or belongs to another configuration."""


class TrainingError(MsrError):
    """Raised when meta-training cannot go on, for example because no outer gradient is finite any more."""


class ExportError(MsrError):
    """Raised when a checkpoint cannot be frozen into a bundle."""


class ParityError(ExportError):
    """Raised when ONNX Runtime and torch disagree on an exported graph by more than the tolerance."""


class BundleError(MsrError):
    """Raised when a bundle is incomplete, damaged or of an unknown format version."""


class ContractError(BundleError):
    """Raised when a bundle is whole but made for a robot with other fields, or another rate."""


class SignatureError(BundleError):
    """Raised when a bundle is whole but unsigned, or signed by none of the trusted keys."""


class KeyFileError(MsrError):
    """Raised when a file of a signing key is missing, of another kind or in the way."""


class ProviderError(MsrError):
    """Raised when an ONNX Runtime execution provider was asked for and is not active."""


class WireError(MsrError):
    """Raised when bytes are not a message of the policy server's protocol, or a value cannot be made one."""


class ServerError(MsrError):
    """Raised when a policy server is not started: its address, token, limits or models are not fit to serve."""


class RealTimeError(MsrError):
    """Raised when real-time scheduling or locked memory was asked for and the system refuses it."""
