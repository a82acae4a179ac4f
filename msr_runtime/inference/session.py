"""Make ONNX Runtime sessions for a control loop: one thread, and never a silent change to another provider."""

from collections.abc import Sequence

from msr_runtime.errors import BundleError, ProviderError
from msr_runtime.inference._onnxruntime import onnxruntime
from msr_runtime.inference.device import CPU, Provider, in_float32, provider_name
from msr_runtime.inference.providers import check_providers

_NOWHERE = "/dev/null/no-external-data"
"""A folder inside a file: no file system can hold it."""


def make_session(
    model: bytes, name: str, providers: Sequence[Provider], *, prepack: bool = True, optimize: bool = True
) -> onnxruntime.InferenceSession:
    """Make a session that runs a model with exactly the given providers, on one thread.

    Args:
        model: The bytes of an ONNX model without external data.
        name: The name of the model in error messages.
        providers: Execution providers, each as a name, or as a name and options. If `CPUExecutionProvider` is last,
            nodes that the others cannot run may run on the CPU. Without it, every node must run on the others.
        prepack: Whether each product with a constant may keep a copy of it in a faster memory layout. This saves time
            and costs memory.
        optimize: Whether ONNX Runtime may rewrite the graph. For a graph of thousands of operators that are written as
            they should run, this only takes time.

    Raises:
        ProviderError: If a provider is not in the installed ONNX Runtime, does not start on this machine or cannot run
            the model.
        BundleError: If ONNX Runtime refuses the model. It refuses every model with external data, and every one that
            is not in ONNX's format.

    Example:
        >>> from msr_runtime import Bundle
        >>> from msr_runtime.inference import make_session
        >>> model = Bundle.open(bundle).files["predict.onnx"]
        >>> make_session(model, "predict.onnx", ["CPUExecutionProvider"]).get_providers()
        ['CPUExecutionProvider']
    """
    check_providers(providers)
    asked = [provider_name(provider) for provider in providers]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Threads that wait in a busy loop ("spin") would take processor time from the control loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # A graph is ONNX and nothing else: the bundle's check reads ONNX. ORT's own format passes it by.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Constants in other files are looked for in a folder that cannot exist. Without it, in the working folder.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    if CPU not in asked:  # else ONNX Runtime would run unsupported nodes on the CPU without saying so
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # 4 logs fatal errors only. Every error is also raised, and each weight that is an input would give a warning.
    options.log_severity_level = 4
    try:
        # With its own fallback, ONNX Runtime would print to stdout and continue on the CPU.
        session = onnxruntime.InferenceSession(model, options, providers=in_float32(providers), enable_fallback=0)
        for part in (*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs()):
            # Names are decoded when they are read. A damaged model may hold bytes that are not text.
            _ = part.name, part.shape
    except Exception as error:  # ONNX Runtime raises a separate class for each of its status codes
        if "fallback to CPU EP has been explicitly disabled" in str(error):
            raise ProviderError(
                f"{name} has nodes that {' and '.join(asked)} cannot run, and {CPU} is not among the providers; add it "
                "as the last provider to run these nodes on the CPU"
            ) from error
        raise BundleError(
            f"{name} is refused by onnxruntime {onnxruntime.__version__} ({error}); it is damaged, refers to external "
            "data or is newer than this onnxruntime: export it again, or update onnxruntime"
        ) from error
    if absent := [provider for provider in asked if provider not in session.get_providers()]:
        raise ProviderError(
            f"provider '{absent[0]}' starts on this machine, but not with {name}: {session.get_providers()} would run "
            "it instead; free memory on its device, or leave this provider out"
        )
    return session
