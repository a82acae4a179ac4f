"""Run in a container that serves: the bundle's stored example must come back through the socket, before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect

from msr_runtime.bundle.store import Bundle
from msr_runtime.serving.wire import decode, encode
from msr_runtime.task import Array, Field, field_slices

bundle = Bundle.open("/bundle")
golden, inputs, outputs = bundle.golden(), bundle.manifest.inputs, bundle.manifest.outputs


def named(rows: Array, fields: Sequence[Field]) -> dict[str, Array]:
    """Rows `(samples, width)` as the map of arrays that the protocol wants."""
    slices = field_slices(fields)
    return {field.name: rows[:, slices[field.name]].reshape(-1, *field.shape) for field in fields}


token = Path("/run/token").read_text(encoding="ascii").strip()
with connect("ws://127.0.0.1:8000", additional_headers={"Authorization": f"Bearer {token}"}) as socket:

    def ask(message: dict[str, Any]) -> Any:
        """Send one message and return the reply."""
        socket.send(encode(message))
        reply = socket.recv()
        assert isinstance(reply, bytes), reply
        return decode(reply)

    assert decode(socket.recv())["bundle"] == bundle.digest
    np.testing.assert_allclose(ask(named(golden.x, inputs))["actions"], golden.y0, rtol=1e-3, atol=1e-5)
    support = {"support_x": named(golden.support_x, inputs), "support_y": named(golden.support_y, outputs)}
    assert ask({"__msr__": "adapt", **support, "steps": golden.steps})["accepted"]
    np.testing.assert_allclose(ask(named(golden.x, inputs))["actions"], golden.y, rtol=1e-3, atol=1e-5)
print(f"served {len(golden.x)} observations before and after {golden.steps} steps, as the exporter stored them")
