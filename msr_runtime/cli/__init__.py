"""The `msr` command: one module per command or per group of related commands.

The commands for the robot run without torch. `train`, `export` and `evaluate` need the extra `train`.
"""

from msr_runtime.cli.start import main

__all__ = ["main"]
