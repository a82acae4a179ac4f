"""`msr new`: writes a task family to begin with."""

import keyword
import re
import shlex
from pathlib import Path
from typing import Annotated

import tyro

from msr_runtime.cli.output import print_rows, require_folder
from msr_runtime.errors import InputError

TEMPLATE = Path(__file__).with_name("template.py")
"""The family that is written. It is a module, so that it is checked and tested as it is."""


def new(file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.py")], /) -> int:
    """Write a task family of a robot with two wheels, to change into your own.

    It has a simulator, a symmetry, separate tasks for tests, and a measure in closed loop.

    Its control loop turns predictions into actions.

    Args:
        file: The file to write, such as my_robot.py. A file that is there already is left as it is, and refused.
    """
    name = "".join(part.capitalize() for part in re.split(r"\W|_", file.stem))
    if file.suffix != ".py" or not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(
            f"'{file}' cannot be a file with a class, but a name such as my_robot.py is wanted: letters, digits and "
            "underscores, a letter first, and .py at the end"
        )
    require_folder(file)
    text = TEMPLATE.read_text("utf-8").replace("MyRobot", name)
    text = text.replace("my_robot", file.stem).replace("my-robot", file.stem.replace("_", "-"))
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise InputError(f"'{file}' is there already, and nothing is overwritten; name another file") from error
    family, run = shlex.quote(f"{file}:{name}"), shlex.quote(f"runs/{file.stem}")
    print_rows(
        {
            "written": file,
            "train it": f"msr train {family} {run}",
            "export it": f"msr export {run} {run}/bundle --family {family}",
            "score it": f"msr evaluate {run}/bundle --family {family} --closed-loop-tasks 10",
            "drive it": f"python {shlex.quote(str(file))} {run}/bundle",
        }
    )
    return 0
