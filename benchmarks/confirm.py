"""Confirm that today's code learns exactly what a stored result was measured with, in minutes and not hours.

A change of the measured code makes a result out of date, even one that changes no number: a new option, a split
function. This script runs each method of a learning result in short, once with the code of the result's commit and once
with today's, and compares losses, gradients, errors and drives. If all are equal to the last bit, today's code is noted
in the result, and `make tables` no longer marks it. If one differs, the result has to be measured again.

The short runs are those of `probe.py`. A script of `MINIATURES` is small enough to be run whole, with few outer steps.

Results of times cannot be confirmed: they are measured again.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro
from code_digest import code_digest
from store import RESULTS, ROOT, Confirmation, Result, digest_of, is_current, read_result, write_result
from training import ROOTS

LEARNS = "msr_runtime/meta"
"""Every result of learning names it among the roots of its code. The other roots have become more since."""
MINIATURES: dict[str, dict[str, object]] = {
    "benchmarks/discovery.py": {"seeds": 1},
    "benchmarks/drives.py": {"steps": 16},
    "benchmarks/few_shot.py": {"budget": "smoke", "episodes": 8, "seeds": 1},
    "benchmarks/guard.py": {"steps": 16, "validation_tasks": 16, "clean_tasks": 16, "tasks": 8, "robots": 4},
    "benchmarks/learned_group.py": {"steps": 16, "episodes": 8},
    "benchmarks/new_parts.py": {"steps": 16, "scenes": 2},
    "benchmarks/online.py": {"steps": 16, "shots": 4, "streams": 2, "validation_streams": 2, "seeds": 1},
}
"""Scripts that are run whole, with whatever they call, and the settings that make them small. Other settings are the
result's own."""


def main(names: Annotated[tuple[str, ...], tyro.conf.Positional], places: dict[str, str] | None = None) -> int:
    """Confirm these results, or name what differs.

    Args:
        names: Stored results of learning, for example families-ring-nav.
        places: Options that say where a script's data lies, and the places: `--places logs PATH`.
    """
    if changed := _git("status", "--porcelain", "--", *ROOTS):
        raise SystemExit(f"error: a confirmation names a commit, but there are changes: {changed}; commit them first")
    paths = [RESULTS / f"{name}.json" for name in names]
    for path in paths:
        check(path)
    verdicts = [confirm(path, places or {}) for path in paths]
    return 0 if all(verdicts) else 1


def check(path: Path) -> None:
    """Refuse, before anything runs, a result that cannot be confirmed."""
    if not path.exists():
        raise SystemExit(f"error: there is no {path}; its script has not stored it")
    result = read_result(path)
    code = result["code"]
    again = f"measure it again: {result['command']}"
    if code is None or result["changed"]:
        how = "copied from a table" if code is None else "measured with uncommitted changes"
        raise SystemExit(f"error: {path.stem} was {how}, so the code behind it is not known; {again}")
    if LEARNS not in code["roots"]:
        raise SystemExit(f"error: {path.stem} is no result of learning, which short runs could confirm; {again}")


def confirm(path: Path, places: Mapping[str, str]) -> bool:
    """Compare one result's code with today's by short runs, and note today's in the result if all numbers agree."""
    result = read_result(path)
    own = sorted(set(result["code"]["roots"] if result["code"] else []) - set(ROOTS))
    if is_current(result):
        print(f"{path.stem}: today's code was measured, or confirmed before")
        return True
    again = f"measure it again: {result['command']}"
    script = next((root for root in own if root in MINIATURES), None)
    with _checkout(result["commit"]) as old:
        uncovered = () if script else own  # a script that is run whole covers itself and what it calls
        if changed := [root for root in uncovered if code_digest([old / root]) != code_digest([ROOT / root])]:
            print(f"{path.stem}: {changed[0]} has changed, which short runs do not cover; {again}")
            return False
        print(f"{path.stem}: short runs with the code of {result['commit'][:7]}, then with today's")
        before, today = (list(_numbers(root, result, script, places)) for root in (old, ROOT))
    for one, other in zip(before, today, strict=True):
        if one != other:
            print(f"{path.stem}: {one['run']} differs; {again}\n  {one}\n  {other}")
            return False
    roots = (*ROOTS, *own)
    confirmation = Confirmation(
        roots=list(roots),
        digest=digest_of(roots),
        commit=_git("rev-parse", "HEAD"),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=len(today),
    )
    write_result(path, Result(**{**result, "confirmed": [*result["confirmed"], confirmation]}))
    print(f"{path.stem}: all numbers of {len(today)} runs are equal; noted")
    return True


def _numbers(root: Path, result: Result, script: str | None, places: Mapping[str, str]) -> Iterator[dict]:
    """Run in short with the code of a checkout, `script` whole if it is named; one dictionary of numbers per run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if script:
            settings = result["settings"] | MINIATURES[script] | {"json": str(out / "rows.json"), **places}
            settings |= {"out": str(out)} if "out" in result["settings"] else {}
            options = [text for name, value in settings.items() for text in _option(name, value)]
            _python(root, root / script, *options)
            for metrics in sorted(out.rglob("metrics.jsonl")):
                steps = [json.loads(line) for line in metrics.read_text().splitlines()]
                yield {"run": metrics.parent.name, "steps": steps}
            for row in read_result(out / "rows.json")["rows"]:
                yield {"run": "scores", "scores": {name: row[name] for name in row if name != "seconds"}}
        else:
            printed = _python(root, ROOT / "benchmarks" / "probe.py", result["name"], folder)
            yield from (json.loads(line) for line in printed.splitlines())


def _option(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{name.replace('_', '-')}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{name.replace('_', '-')}", *map(str, values)]


def _python(root: Path, script: Path, *arguments: str) -> str:
    """Run a script with the code of a checkout, and return what it prints."""
    folders = [root / "benchmarks", root, root / "envs", root / "export"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "PYTHONSAFEPATH": "1",  # or Python puts the script's own folder first, which is today's for the probe
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {script.name} ended with {done.returncode} on the code in {root}; see above")
    return done.stdout


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    """Check a commit out into a folder of its own, for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp()) / "repository"
    try:
        _git("worktree", "add", "--detach", str(folder), commit)
        yield folder
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
        _git("worktree", "prune")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))
