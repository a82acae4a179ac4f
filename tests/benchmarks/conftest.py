"""The benchmarks are programs: they find each other because they lie in one folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
