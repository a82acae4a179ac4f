"""Stored results: what a benchmark measured, with everything that says where the figures come from.

`benchmarks/results/NAME.json` is written only by the script that measures, and only when it is run with `--store NAME`.
A name stands for fixed settings, which the script lists. Other settings are refused beside it, so that a smaller run
cannot replace a stored result.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from code_digest import code_digest

from msr_runtime.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

TRAINING = (
    "msr_runtime/meta",
    "msr_runtime/task.py",
    "msr_runtime/families.py",
    "msr_runtime/normalization.py",
    "msr_runtime/relinearization.py",
    "envs/msr_envs",
)
"""The code that decides what is learned. A result's roots are such paths, relative to the repository."""
EXPORT = ("export/msr_export",)
IN_C = ("export/msr_c",)
"""The code that writes a bundle in C."""
RUNTIME = (
    *("msr_runtime/arrays.py", "msr_runtime/relinearization.py"),
    *("msr_runtime/bundle", "msr_runtime/inference", "msr_runtime/adaptation"),
)
"""The code that loads a bundle, predicts and adapts."""
PACKAGES = ("torch", "onnxruntime", "numpy", "mujoco", "jax", "ai-edge-litert", "iree-base-runtime", "e2cnn")


class Code(TypedDict):
    """Which code's figures a result states."""

    roots: list[str]
    digest: str


class Confirmation(TypedDict):
    """Later code that `confirm.py` found to compute the same."""

    roots: list[str]
    """Which code: that of the result, and what came to be beside it since."""
    digest: str
    commit: str
    date: str
    """UTC, ISO 8601."""
    runs: int
    """How many short runs were compared."""


class Result(TypedDict):
    """One stored result."""

    name: str
    command: str
    settings: dict[str, Any]
    seeds: list[int]
    commit: str
    """Hash of the commit that was checked out."""
    changed: bool
    """Whether the measured code differed from that commit."""
    date: str
    """UTC, ISO 8601, when the measurement began."""
    processor: str
    cores: int
    versions: dict[str, str]
    code: Code | None
    """None for a transcription: the digest of its code is not known, so that it counts as out of date."""
    confirmed: list[Confirmation]
    transcribed: bool
    """Whether the figures were copied from a table printed at `commit`, and not written by the script."""
    rows: list[Any]
    pictures: dict[str, Any]
    """What `pictures.py` draws; empty for most."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a benchmark's result goes; the base of every script's options."""

    store: str | None = None
    """Name of the stored result to measure anew, with its own settings: writes benchmarks/results/NAME.json."""
    json: Path | None = None
    """Write the result to this file, whatever the settings."""


Options = TypeVar("Options", bound=Output)


def settled(options: Options, stored: Mapping[str, Options]) -> Options:
    """Return the settings to measure with: those given or, with `--store NAME`, those that the name stands for.

    An option whose metadata has a `place` says where data lies. It is no setting, and may stand beside `--store`.

    Args:
        options: As given on the command line.
        stored: The script's results by name, with the settings of each.
    """
    if options.store is None:
        return options
    if options.store not in stored:
        names = ", ".join(stored)
        raise SystemExit(f"error: --store is '{options.store}', but this script stores {names}")
    places = {f.name: getattr(options, f.name) for f in fields(options) if f.metadata.get("place")}
    kept = ("store", "json", *places)
    given = [f.name for f in fields(options) if getattr(options, f.name) != f.default and f.name not in kept]
    if given:
        raise SystemExit(
            f"error: --store {options.store} measures with settings of its own, but --{given[0].replace('_', '-')} is "
            "given too; leave it out, or leave --store out and write with --json"
        )
    return replace(stored[options.store], store=options.store, json=options.json, **places)


def begin(options: Output, roots: Sequence[str], seeds: Iterable[int]) -> Result:
    """Note where the figures will come from. Called before anything is measured: the code may change meanwhile.

    Args:
        options: The settings to measure with.
        roots: The code whose figures are stated: files and folders relative to the repository.
        seeds: The seeds that the figures come from.
    """
    settings = {
        f.name: asdict(options)[f.name]
        for f in fields(options)
        if f.name not in ("store", "json") and not f.metadata.get("place")
    }
    return Result(
        name=options.store or Path(sys.argv[0]).stem,
        command=_command(),
        settings=json.loads(json.dumps(settings, default=str)),
        seeds=list(seeds),
        commit=_git(options, "rev-parse", "HEAD"),
        changed=bool(_git(options, "status", "--porcelain", "--", *roots)),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=_processor(),
        cores=os.cpu_count() or 0,
        versions={"python": platform.python_version(), **_versions()},
        code=Code(roots=list(roots), digest=digest_of(tuple(roots))),
        confirmed=[],
        transcribed=False,
        rows=[],
        pictures={},
    )


def keep(options: Output, begun: Result, rows: Sequence[Any], pictures: Mapping[str, Any] | None = None) -> None:
    """Write the result where the options say: into the store, to a file, or nowhere."""
    result = Result(**{**begun, "rows": list(rows), "pictures": dict(pictures or {})})
    if options.store:
        write_result(RESULTS / f"{options.store}.json", result)
    if options.json:
        write_result(options.json, result)


def write_result(path: Path, result: Result) -> None:
    """Write a result as JSON, one line per row and per picture, so that a change is easy to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {key: _json(value) for key, value in result.items()}
    if result["rows"]:
        texts["rows"] = "[\n    " + ",\n    ".join(map(_json, result["rows"])) + "\n  ]"
    if result["pictures"]:
        drawn = [f"{_json(name)}: {_json(data)}" for name, data in result["pictures"].items()]
        texts["pictures"] = "{\n    " + ",\n    ".join(drawn) + "\n  }"
    lines = [f"  {_json(key)}: {text}" for key, text in texts.items()]
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read_result(path: Path) -> Result:
    """Read a stored result."""
    return Result(**{"confirmed": [], **json.loads(path.read_text())})


def is_current(result: Result, digest: Callable[[tuple[str, ...]], str] | None = None) -> bool:
    """Tell whether a result's figures are those of today's code: measured with it, or confirmed.

    Args:
        result: The stored result.
        digest: Gives the digest of today's code below some roots; `digest_of`, unless given.
    """
    now = digest or digest_of
    known = [result["code"], *result["confirmed"]] if result["code"] else []
    return any(code is not None and now(tuple(code["roots"])) == code["digest"] for code in known)


def digest_of(roots: tuple[str, ...]) -> str:
    """Return the digest of the repository's present code below these roots."""
    return code_digest(ROOT / root for root in roots)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _git(options: Output, *arguments: str) -> str:
    """What git says; nothing outside of a git checkout, where no result can be stored."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    if done.returncode and options.store:
        raise SystemExit(f"error: git says: {done.stderr.strip()}; a result names its commit, so run in a git checkout")
    return done.stdout.strip()


def _command() -> str:
    """The command that is running, with paths relative to the repository. Of others, the last part says enough."""

    def shown(word: str | Path) -> str:
        path = Path(word)
        if path.is_absolute():
            return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        return str(word)

    return shlex.join(map(shown, (Path(sys.executable), Path(sys.argv[0]).resolve(), *sys.argv[1:])))


def _processor() -> str:
    with Path("/proc/cpuinfo").open() as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
