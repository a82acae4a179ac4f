"""What is stored, and that smaller runs cannot replace it."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import store
from store import ROOT, Output, Result, begin, keep, read_result, settled


@dataclass(frozen=True)
class Options(Output):
    steps: int = 10
    seeds: int = 1
    logs: Path | None = field(default=None, metadata={"place": True})


STORED = {"long": Options(steps=1000, seeds=3)}


def test_a_name_stands_for_settings() -> None:
    assert settled(Options(store="long"), STORED) == Options(steps=1000, seeds=3, store="long")
    assert settled(Options(steps=2), STORED) == Options(steps=2)
    there = Path("logs")
    assert settled(Options(store="long", logs=there), STORED) == Options(steps=1000, seeds=3, store="long", logs=there)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(store="long", steps=2), r"--steps is given too; leave it out"),
        (Options(store="short"), r"--store is 'short', but this script stores long"),
    ],
)
def test_other_settings_are_refused(options: Options, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        settled(options, STORED)


def test_only_store_writes_into_the_store(tmp_path: Path, monkeypatch) -> None:
    """A result that was written holds the settings, the commit and the digest of today's code."""
    monkeypatch.setattr(store, "RESULTS", tmp_path / "results")
    roots = ("benchmarks/code_digest.py",)
    plain = Options(steps=2, json=tmp_path / "copy.json")
    keep(plain, begin(plain, roots, [0]), [{"error": 0.5}])
    assert not (tmp_path / "results").exists()
    assert read_result(tmp_path / "copy.json")["settings"] == {"steps": 2, "seeds": 1}

    options = settled(Options(store="long"), STORED)
    keep(options, begin(options, roots, range(3)), [{"error": 0.5}, {"error": 0.25}], {"curve": [1, 2]})
    result = read_result(tmp_path / "results" / "long.json")
    assert result["name"] == "long"
    assert result["rows"] == [{"error": 0.5}, {"error": 0.25}]
    assert result["pictures"] == {"curve": [1, 2]}
    assert result["settings"] == {"steps": 1000, "seeds": 3}
    assert result["seeds"] == [0, 1, 2]
    assert len(result["commit"]) == 40
    assert not result["transcribed"]
    assert result["code"] == {"roots": list(roots), "digest": store.digest_of(roots)}
    assert set(result) == set(Result.__annotations__)


@pytest.mark.parametrize("path", sorted(store.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_stored_result_says_where_it_comes_from(path: Path) -> None:
    result = read_result(path)
    assert set(result) == set(Result.__annotations__)
    assert result["name"] == path.stem
    assert result["rows"]
    assert result["processor"]
    assert result["cores"] >= 1
    assert "python" in result["versions"]
    assert len(result["commit"]) == 40
    assert (result["code"] is None) == result["transcribed"]
    script = next(word for word in result["command"].split() if word.startswith("benchmarks/"))
    assert (ROOT / script).is_file()
    assert ("--store", path.stem) in pairwise(result["command"].split())
    assert not any(word.startswith("/") for word in result["command"].split()), "a path of one machine"
    assert f'"{path.stem}"' in (ROOT / script).read_text() or path.stem.startswith(("families-", "drive-"))
