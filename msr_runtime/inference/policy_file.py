"""A policy in an ONNX file, from whatever wrote it, as a function of numpy arrays."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msr_runtime.errors import InputError
from msr_runtime.inference._onnxruntime import onnxruntime

_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class PolicyFile:
    """The policy of a file. It is called with x `(samples, *x)` and returns y `(samples, *y)`.

    Args:
        path: The file. Weights in a file beside it are read too.
        width: How many numbers y has. Of several outputs, such as those of an actor and a critic, the first one with
            so many is taken.

    Raises:
        InputError: The file is missing or no ONNX, or has no single input, or no output of that width.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from msr_runtime.inference import PolicyFile
        >>> policy = PolicyFile(Path(bundle) / "predict.onnx", width=2)  # a bundle's graph is an ONNX file like others
        >>> policy(np.zeros((3, 18), np.float32)).shape
        (3, 2)

    """

    def __init__(self, path: str | PathLike[str], width: int) -> None:
        if not Path(path).is_file():
            raise InputError(f"there is no ONNX file '{path}' (looked for {Path(path).resolve()}); correct the path")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # every error is also raised
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's bindings raise many types
            raise InputError(f"'{path}' cannot be run by ONNX Runtime: {error}; name a file of a policy") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = next((each for each in outputs if each.shape and each.shape[-1] == width), None)
        if len(inputs) != 1 or inputs[0].type not in _DTYPES or found is None:
            raise InputError(
                f"'{path}' has the inputs {_described(inputs)} and the outputs {_described(outputs)}, but one input of "
                f"floating-point numbers is wanted, and an output whose last axis has {width} numbers, as y has; "
                "export the policy alone, or correct the fields"
            )
        self.input, self.output = inputs[0].name, found.name
        self._dtype, self._one = _DTYPES[inputs[0].type], inputs[0].shape[:1] == [1]

    def __call__(self, x: NDArray) -> NDArray[np.float32]:
        """Predict. A file that was written for one sample at a time is run once for each."""
        parts = np.split(x, len(x)) if self._one else [x]
        answers = [self._session.run([self.output], {self.input: part.astype(self._dtype)})[0] for part in parts]
        return np.concatenate([np.asarray(answer, np.float32) for answer in answers])


def _described(values: Sequence[Any]) -> str:
    return ", ".join(f"{each.name} {each.shape} {each.type}" for each in values) or "none"
