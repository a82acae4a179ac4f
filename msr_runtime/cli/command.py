"""The `msr` command and the table of its eighteen commands.

* For training: `new`, `train`, `evaluate`, `export`, `source`, `samples`, `check`.
* For the robot: `info`, `compile`, `adapt`, `bench`, `serve`.
* For recordings and logs of a robot: `score`, `replay`, `dataset`.
* For signed bundles: `keygen`, `sign`, `verify`.

The module of a command is imported only when the command is called, so that the robot's commands run without torch.

Exit codes: 0 success; 1 a check failed (an update was refused, a replay differs, a signature is wrong); 2 wrong usage
or wrong input; 130 interrupted; 141 the program that read the output has ended.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

import tyro

from msr_runtime.cli.output import refuse
from msr_runtime.cli.parsing import complete, plain_parsing
from msr_runtime.cli.start import interrupt_exits
from msr_runtime.errors import MsrError, line_of_users_code

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "For training, on a workstation (extra `train`)": {
        "new": ("new:new", "write a task family to begin with: a robot with two wheels"),
        "train": ("train:train", "meta-train a network on a task family; writes a run"),
        "evaluate": ("evaluate:evaluate", "measure the errors of a bundle, run or checkpoint on new tasks"),
        "export": ("export:export", "write the best checkpoint of a run as a bundle, the folder for the robot"),
        "source": ("source:source", "write a bundle as C source, for a robot without an operating system"),
        "samples": ("samples:samples", "write samples of a simulated task, for `msr adapt`"),
        "check": ("check:check", "compare a policy in an ONNX file with a declared symmetry"),
    },
    "For the robot (no torch)": {
        "info": ("info:info", "describe a bundle and this machine"),
        "compile": ("compile:compile_native", "compile a bundle's native code for this processor"),
        "adapt": ("adapt:adapt", "adapt a bundle to the samples in an .npz file"),
        "bench": ("bench:bench", "time predict and adapt of a bundle on this machine"),
        "serve": ("serve:serve", "serve bundles to clients of openpi's protocol (extra `serve`)"),
    },
    "For recordings of a robot (extra `log`) and for its logs": {
        "score": ("score:score", "say how well a bundle predicts a log while it adapts, and whether adapting helps"),
        "replay": ("replay:replay", "compare the recorded actions with the actions of a bundle"),
        "dataset": ("dataset:dataset", "make training data from recordings"),
    },
    "For signed bundles (extra `sign`)": {
        "keygen": ("signing:keygen", "make a key pair"),
        "sign": ("signing:sign", "sign a bundle with the private key"),
        "verify": ("signing:verify", "check the files of a bundle, and its signature with the public key"),
    },
}
"""Title of a group to its commands: name to `module:function` under `msr_runtime.cli`, and a summary."""

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
"""All commands: name to `module:function` under `msr_runtime.cli`, and a summary."""

# The errors of pydantic end with the address of a page about pydantic, of which the user has not heard. pydantic reads
# this at its first error.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

TRACEBACK = "MSR_TRACEBACK"
"""The environment variable with which a refusal is preceded by Python's traceback."""

TRAINING_PACKAGES = frozenset({"torch", "gymnasium", "mujoco", "onnx", "onnxscript", "rich", "tensorboard"})
"""The packages that only `pip install "msr-runtime[train]"` installs."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. An expected error is printed as one sentence on stderr."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"msr-runtime {metadata.version('msr-runtime')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return _refuse(f"there is no command '{name}'.{hint} The commands are {', '.join(COMMANDS)}.")
    module, function = COMMANDS[name][0].split(":")
    try:
        with interrupt_exits():
            command = getattr(importlib.import_module(f"msr_runtime.cli.{module}"), function)
        code = tyro.cli(command, prog=f"msr {name}", args=complete(rest), registry=plain_parsing(rest))
        sys.stdout.flush()  # a closed pipe raises here and is handled below; at exit it would print a traceback
        return code
    except BrokenPipeError:  # the reader of the output has ended, as in `msr info | head -1`
        # Python flushes stdout once more at exit. It goes to /dev/null, where it cannot fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ImportError as error:
        if missing := _missing_package(error):
            return _refuse(f"`msr {name}` needs {missing}, which is not installed: {_INSTALL}")
        if error.name is None:
            return _refuse(str(error))  # this project's own: it says what to install
        if where := line_of_users_code(error):
            return _refuse(_raised(where, error))
        raise
    except MsrError as error:
        # the cause can be a package that is missing for the module of a task family
        if missing := _missing_package(error.__cause__):
            return _refuse(f"{error}; {_INSTALL}")
        return _refuse(str(error))
    except OSError as error:
        where = line_of_users_code(error)
        return _refuse(_raised(where, error) if where else str(error))
    except Exception as error:
        if where := line_of_users_code(error):
            return _refuse(_raised(where, error))
        if _lacks_memory(error):
            return _refuse(
                f"`msr {name}` needs more memory than there is ({str(error).splitlines()[0]}); take a narrower network "
                f"(--learner.width), fewer tasks or fewer samples. {TRACEBACK}=1 before the command shows what "
                "asked for it"
            )
        raise


_INSTALL = 'pip install "msr-runtime[train]"'


def _missing_package(error: BaseException | None) -> str | None:
    """The training package whose absence caused `error`, if it was one."""
    package = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
    return package if package in TRAINING_PACKAGES else None


def _lacks_memory(error: Exception) -> bool:
    """Whether numpy or torch could not get memory. torch has an error of its own for this on GPUs alone."""
    found = isinstance(error, RuntimeError) and any(word in str(error) for word in ("allocate memory", "out of memory"))
    return found or isinstance(error, MemoryError)


def _refuse(sentence: str) -> int:
    if os.environ.get(TRACEBACK) and sys.exc_info()[0]:
        traceback.print_exc()
    refuse(sentence)
    return 2


def _raised(where: str, error: Exception) -> str:
    return (
        f"{where} raised {type(error).__name__}: {error}; correct it. {TRACEBACK}=1 before the command shows how the "
        "line was reached"
    )


def _usage() -> str:
    lines = [
        "usage: msr COMMAND ...",
        "",
        "Train a network that can adapt in a few steps. Then run it and adapt it on a robot.",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<9} {summary}" for name, (_, summary) in commands.items())]
    lines += [
        "",
        "`msr COMMAND --help` explains a command and its options. `msr --version` prints the version.",
        f"With {TRACEBACK}=1 in the environment, an error also prints Python's traceback.",
    ]
    return "\n".join(lines)
