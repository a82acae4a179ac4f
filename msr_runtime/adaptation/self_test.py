"""The self-test: replay a bundle's golden example on this machine, and compare it with what torch computed.

A bundle with the rule `recursive` has a golden stream too.
"""

import numpy as np

from msr_runtime.adaptation.sessions import Sessions
from msr_runtime.bundle.store import Bundle
from msr_runtime.errors import BundleError
from msr_runtime.inference.time_limit import LONGEST, TimeLimit


def replay_golden_example(bundle: Bundle, sessions: Sessions, longest: float = LONGEST) -> float:
    """Adapt to the golden example's support set, and return the largest relative error. See `AdaptiveModel.self_test`.

    With the rule `recursive`, also take the samples of the golden stream.

    Args:
        bundle: The bundle.
        sessions: Its sessions.
        longest: Longest time that all runs of the graphs together may take, in s.

    Raises:
        BundleError: If the error is larger than the tolerance in the manifest, if the graphs do not run, or if they
            take too long.
    """
    golden, tolerance = bundle.golden(), bundle.manifest.parity.tolerance
    stream = bundle.stream() if sessions.recursion else None
    limit = TimeLimit(longest)
    try:
        with limit:
            limited = sessions.limited(limit)
            end = limited.adapt(golden.support_x, golden.support_y, golden.steps, limited.start)
            errors, allowed = dict[str, float](), dict[str, float]()
            if end.predictor is not None:
                errors = golden.errors(
                    bundle.manifest.normalization,
                    v=end.predictor.tensors["v"],
                    losses=np.array([end.loss_before, end.loss_after]),
                    y0=limited.start(golden.x),
                    y=end.predictor(golden.x),
                )
                if stream:
                    seen = stream.errors(bundle.manifest.normalization, limited.replay(stream))
                    allowed |= dict.fromkeys(seen, stream.allowed(tolerance))
                    errors |= seen
    except Exception as error:  # the bindings of ONNX Runtime raise many types for a malformed graph
        if limit.over:
            raise BundleError(limit.message(f"bundle '{bundle.path}': its golden example")) from error
        raise BundleError(
            f"bundle '{bundle.path}': its golden example does not run ({error}); the graphs do not match the "
            "manifest: export again"
        ) from error
    if end.predictor is None:
        raise BundleError(
            f"bundle '{bundle.path}': its golden adaptation is not finite on this machine, but it was at export; do "
            "not run the bundle here"
        )
    for name, error in errors.items():
        if not error <= (most := allowed.get(name, tolerance)):
            raise BundleError(
                f"bundle '{bundle.path}': the golden example's {name} is off by {error:.1e}, more than the tolerance "
                f"{most:.1e}; {_CAUSES[sessions.engine]}"
            )
    return max(errors.values())


_CAUSES = {
    "onnx": "likely cause: graphs of another export, or an onnxruntime or provider that computes otherwise here. Do "
    "not run the bundle here; try CPUExecutionProvider, or export again",
    "native": "likely cause: code of another export, or a compiler with an error. Do not run this code; run `msr "
    "compile` with another --compiler, or leave the engine out, which takes ONNX Runtime",
}
"""What is wrong most likely, and what to do, by engine."""
