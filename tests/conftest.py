"""What every test shares."""

import contextlib
import functools

# Tests run in parallel processes, so one thread each is fastest; without torch the robot's side can still be tested.
with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)

# torch reads its table of ONNX operators anew for every graph, in a second. The tests write hundreds of graphs.
with contextlib.suppress(ImportError):
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
