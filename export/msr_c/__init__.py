"""The C exporter: a finished bundle becomes C99 source that predicts and adapts, also without an operating system.

It reads the ONNX graphs of a bundle, with onnx and numpy, and never torch.
"""

from msr_c.writer import Written, write_c, write_robot_source

__all__ = ["Written", "write_c", "write_robot_source"]
