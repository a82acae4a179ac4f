"""A state is one block of memory, shared with ONNX Runtime or copied to a device."""

from typing import Any

import numpy as np

from msr_runtime.inference.device import Device
from msr_runtime.inference.state import State


def test_a_state_lies_in_one_block(linear: Any) -> None:
    """The tensors are copies in the block, and ONNX Runtime's values share the memory of the block."""
    tensors = linear.start()
    state = State(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(state.tensors[name], tensor)
        assert np.shares_memory(state.tensors[name], state.block)
        assert not np.shares_memory(state.tensors[name], tensor)
    state.block[:] = 7
    assert all((value.numpy() == 7).all() for value in state.values.values())


def test_values_with_memory_of_their_own_are_sent_and_fetched(linear: Any) -> None:
    """As on a GPU: `send` makes a change of the block visible in the values, `fetch` the other way round."""
    state = State(linear.start(), Device(copies=True))
    np.testing.assert_array_equal(state.values["v"].numpy(), linear.v0)
    state.block[:] = 7
    np.testing.assert_array_equal(state.values["v"].numpy(), linear.v0)
    state.send()
    assert all((value.numpy() == 7).all() for value in state.values.values())
    for name, value in state.values.items():
        value.update_inplace(linear.start()[name])
    assert (state.tensors["v"] == 7).all()
    state.fetch()
    assert all(np.array_equal(state.tensors[name], tensor) for name, tensor in linear.start().items())
