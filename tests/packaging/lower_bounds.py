"""Print the lower bound of each package in pyproject.toml as a constraint for pip. `make lowest` installs them.

A bound names a version that exists, so that it can be installed and tested.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def constraints() -> Iterator[str]:
    """Yield a line per package, such as `numpy==2.0`.

    Raises:
        ValueError: If a package has no lower bound.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    for requirement in (*project["dependencies"], *(each for extra in extras for each in extra)):
        found = re.match(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<bound>[\w.]+)", requirement)
        if not found:
            raise ValueError(f"'{requirement}' in {PYPROJECT.name} has no lower bound; write it as NAME>=VERSION")
        yield f"{found['name']}=={found['bound']}"


if __name__ == "__main__":
    print(*constraints(), sep="\n")
