"""The `msr` command: `train`, `export`, `info`, `adapt`, `evaluate`, `bench` and `serve`.

A command's module is imported when the command is asked for, so that the robot's commands run without torch. Exit
codes: 0 done, 1 a check failed, 2 wrong usage or an input that is refused, 130 interrupted, 141 where nobody reads the
output any more.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import tyro

from msr_runtime.errors import MsrError

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("training:train", "meta-train a method on a task family into a run's folder"),
    "export": ("training:export", "freeze a run's best checkpoint into a bundle"),
    "info": ("info:info", "say what a bundle needs and what this machine offers"),
    "keygen": ("trust:keygen", "make a key to sign bundles with"),
    "sign": ("trust:sign", "sign a bundle"),
    "verify": ("trust:verify", "check a bundle's digests and its signature"),
    "adapt": ("robot:adapt", "adapt a bundle to the samples of an .npz file"),
    "evaluate": ("evaluation:evaluate", "score a bundle, run or checkpoint on fresh tasks"),
    "bench": ("bench:bench", "time a bundle's predict and adapt on this machine"),
    "replay": ("recording:replay", "run a robot's recording against a bundle and say where they differ"),
    "dataset": ("recording:dataset", "make training data of robots' recordings"),
    "serve": ("serve:serve", "serve bundles over a websocket to clients of openpi's protocol"),
}
"""Name to where it lives under `msr_runtime.commands`, and what it does."""

TRAINING_PACKAGES = frozenset({"torch", "gymnasium", "mujoco", "onnx", "onnxscript", "rich", "tensorboard"})
"""What only `pip install "msr-runtime[train]"` brings."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `arguments`, by default the process's own, and exit with the command's code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what is refused is one sentence on stderr, without a traceback."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return _refuse(f"there is no command '{name}'.{hint} The commands are {', '.join(COMMANDS)}.")
    module, function = COMMANDS[name][0].split(":")
    try:
        command = getattr(importlib.import_module(f"msr_runtime.commands.{module}"), function)
        code = tyro.cli(command, prog=f"msr {name}", args=rest)
        sys.stdout.flush()  # here, where a closed pipe is met, and not on the way out
        return code
    except KeyboardInterrupt:
        print("msr: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has read enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ImportError as error:
        if missing := _missing_package(error):
            return _refuse(f"`msr {name}` needs {missing}, which is not installed: {_INSTALL}")
        if error.name is not None:
            raise
        return _refuse(str(error))  # of our own making: it says what to install
    except (MsrError, OSError) as error:
        # a family's own import may be what lacks a package
        if missing := _missing_package(error.__cause__):
            return _refuse(f"{error}; {_INSTALL}")
        return _refuse(str(error))


_INSTALL = 'pip install "msr-runtime[train]"'


def _missing_package(error: BaseException | None) -> str | None:
    package = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
    return package if package in TRAINING_PACKAGES else None


def _refuse(sentence: str) -> int:
    print(f"msr: {sentence}", file=sys.stderr)
    return 2


def _usage() -> str:
    lines = [f"  {name:<9} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(["usage: msr COMMAND ...", "", *lines, "", "`msr COMMAND --help` lists a command's options."])


if __name__ == "__main__":  # what torchrun starts: `torchrun -m msr_runtime.cli train ...`
    main()
