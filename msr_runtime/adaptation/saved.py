"""Saving what a model has learned, and loading it again."""

import os
import threading
from pathlib import Path

import numpy as np

from msr_runtime.adaptation.sessions import Sessions
from msr_runtime.bundle.adaptation_file import decode_adaptation, encode_adaptation, read_adaptation
from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import BundleError, InputError
from msr_runtime.files import write_atomically
from msr_runtime.inference.belief import Belief
from msr_runtime.inference.predictor import BoundPredictor


class SavedAdaptations:
    """The part of `AdaptiveModel` that keeps what was learned."""

    bundle: Bundle
    _sessions: Sessions
    _acting: BoundPredictor
    _changes: threading.RLock

    def save_adaptation(self, path: str | os.PathLike[str]) -> None:
        """Write the acting `v` and its folded weights to a safetensors file, together with the digest of this bundle.

        With the rule `recursive`, the file also keeps how sure the model is of v, and the first samples as long as they
        are linearized again.
        The file is written whole or not at all; an earlier file at `path` is replaced.

        Args:
            path: Where to write the file.

        Raises:
            InputError: If the model acts at `v0`, so that there is nothing to save.

        Example:
            >>> import numpy as np
            >>> from msr_runtime import AdaptiveModel
            >>> model = AdaptiveModel.load(bundle)
            >>> result = model.adapt(np.ones((10, 18)), np.zeros((10, 2)))
            >>> model.save_adaptation(folder / "wing_3.safetensors")
        """
        write_atomically(Path(path).resolve(), self.dump_adaptation())

    def dump_adaptation(self) -> bytes:
        """Return the bytes that `save_adaptation` writes.

        Raises:
            InputError: If the model acts at `v0`, so that there is nothing to save.
        """
        with self._changes:  # an update would write over the rows
            acting = self._acting
            if acting is self._sessions.start:
                raise InputError("there is no adaptation to save: the model acts at v0; adapt it first")
            # Native code keeps matrices transposed, and a file keeps them in order.
            tensors = {name: np.ascontiguousarray(tensor) for name, tensor in acting.tensors.items()}
            return encode_adaptation(tensors | (acting.belief.tensors() if acting.belief else {}), self.bundle)

    def load_adaptation(self, path: str | os.PathLike[str]) -> None:
        """Load a saved adaptation; its weights act at once.

        Args:
            path: A file that `save_adaptation` wrote, with a model of the same bundle.

        Raises:
            BundleError: If the file is missing or damaged, belongs to another bundle, or is not finite. The earlier
                weights still act.

        Example:
            >>> import numpy as np
            >>> from msr_runtime import AdaptiveModel
            >>> model, again = AdaptiveModel.load(bundle), AdaptiveModel.load(bundle)
            >>> result = model.adapt(np.ones((10, 18)), np.zeros((10, 2)))
            >>> model.save_adaptation(folder / "wing_3.safetensors")
            >>> again.load_adaptation(folder / "wing_3.safetensors")
            >>> np.array_equal(again.v, model.v)
            True
        """
        self.restore_adaptation(read_adaptation(path, self.bundle.manifest), f"adaptation '{path}'")

    def restore_adaptation(self, data: bytes, where: str = "the adaptation") -> None:
        """Load an adaptation from memory; its weights act at once.

        Args:
            data: The bytes of `dump_adaptation` or of a saved file.
            where: How errors name these bytes.

        Raises:
            BundleError: If the bytes are damaged, belong to another bundle, or are not finite. The earlier weights
                still act.
        """
        tensors, belief = decode_adaptation(data, self.bundle, where), None
        if recursion := self._sessions.recursion:
            try:
                belief = Belief.restored(tensors, recursion.outputs)
            except InputError as error:
                raise BundleError(f"{where}: {error}; it was made by another program: adapt again") from error
            tensors = {name: tensors[name] for name in self._sessions.start.tensors}
        with self._changes:
            predictors = self._sessions.predictors
            self._acting = predictors.make(predictors.block(tensors), self._acting, belief)
