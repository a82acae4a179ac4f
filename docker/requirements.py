"""Print what `pip install ".[EXTRA,...]"` would ask for, so that packages are a layer below the code's own.

python docker/requirements.py EXTRA ...
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *(line for extra in sys.argv[1:] for line in extras[extra]), sep="\n")
