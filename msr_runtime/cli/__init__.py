"""The `msr` command: one module per command or per group of related commands.

The commands for the robot run without torch. `train`, `export` and `evaluate` need the extra `train`.
"""

from msr_runtime.cli.command import COMMANDS, main, run

__all__ = ["COMMANDS", "main", "run"]
