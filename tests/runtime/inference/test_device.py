"""Where tensors lie, and the options of the providers that compute there."""

import numpy as np
import pytest

from msr_runtime.inference.device import CPU, CUDA, HOST, TENSORRT, Device, device_of, in_float32, without_graphs


@pytest.mark.parametrize(
    ("providers", "device"),
    [
        ([CPU], HOST),
        ([(CPU, {"use_arena": "1"})], HOST),
        ([CUDA, CPU], Device("cuda", 0, copies=True)),
        ([(CUDA, {"device_id": "1"})], Device("cuda", 1, copies=True)),
        ([(TENSORRT, {"device_id": 2}), CUDA], Device("cuda", 2, copies=True)),
        ([(CUDA, {"enable_cuda_graph": "1"})], Device("cuda", 0, copies=True, graphs=True)),
        ([(CUDA, {"enable_cuda_graph": True})], Device("cuda", 0, copies=True, graphs=True)),
        ([(CUDA, {"enable_cuda_graph": "0"})], Device("cuda", 0, copies=True)),
    ],
)
def test_tensors_lie_where_the_first_provider_computes(providers: list, device: Device) -> None:
    """Tensors are stored on the GPU that the options name, and CUDA graphs are used if the options ask for them."""
    assert device_of(providers) == device


def test_only_predictions_are_captured_as_cuda_graphs() -> None:
    """For the inner loop, whose shapes change with the shots, CUDA graphs are off. All other options are kept."""
    providers = [(CUDA, {"enable_cuda_graph": "1", "device_id": "1"}), CPU]
    assert without_graphs(providers) == [(CUDA, {"device_id": "1"}), CPU]


def test_products_are_in_float32_unless_told_otherwise() -> None:
    """TF32 is switched off for CUDA, the only provider with TF32 as its default, unless an option sets it."""
    asked = [TENSORRT, (CUDA, {"device_id": "1"}), CPU]
    assert in_float32(asked) == [(TENSORRT, {}), (CUDA, {"device_id": "1", "use_tf32": "0"}), (CPU, {})]
    assert in_float32([(CUDA, {"use_tf32": "1"})]) == [(CUDA, {"use_tf32": "1"})]


def test_every_binding_has_a_cuda_graph_of_its_own() -> None:
    """A CUDA graph replays with the memory of one binding, so each binding has another graph id."""
    assert HOST.run_options() is None
    options = [Device("cuda", graphs=True).run_options() for _ in range(3)]
    ids = [each.get_run_config_entry("gpu_graph_id") for each in options]
    assert len(set(ids)) == 3
    assert all(int(each) > 0 for each in ids)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_value_shares_memory_or_has_its_own(dtype: type) -> None:
    """On the CPU a value shares numpy's memory. For a device it is a copy."""
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    shared, copied = HOST.place(array), Device(copies=True).place(array)
    array += 1
    np.testing.assert_array_equal(shared.numpy(), array)
    np.testing.assert_array_equal(copied.numpy(), array - 1)
