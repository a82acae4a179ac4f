"""A description is read as it is meant. A wrong one is refused in one sentence that names the entry."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msr_envs.logs import LogDescription, LogField, read_description
from msr_envs.logs.needs import require_package
from msr_runtime.errors import FamilyError
from msr_runtime.representation import Parts, Pseudoscalar

GOOD = """
files: logs/*.csv
time: stamp
horizon: 1
symmetry: mirror
inputs:
  - name: wheels
    columns: [left, right]
    unit: rad/s
    lags: [0, 2]
    representation: {kind: parts, cycles: {mirror: [[left, right]]}}
outputs:
  - {name: yaw_rate, unit: rad/s, difference: true, representation: pseudoscalar}
split: {test: snow_*, validation: 0.2}
"""


def read(folder: Path, text: str) -> LogDescription:
    """What the text describes."""
    (folder / "husky.yaml").write_text(text, "utf-8")
    return read_description(folder / "husky.yaml")


def test_a_file_says_what_python_says(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD) == LogDescription.model_validate(
        {
            "name": "husky",
            "files": ("logs/*.csv",),
            "time": "stamp",
            "horizon": 1,
            "symmetry": [{"kind": "mirror", "axis": "y"}],
            "inputs": [
                LogField(
                    name="wheels",
                    columns=("left", "right"),
                    unit="rad/s",
                    lags=(0, 2),
                    representation=Parts(cycles={"mirror": [("left", "right")]}),
                )
            ],
            "outputs": [LogField(name="yaw_rate", unit="rad/s", difference=True, representation=Pseudoscalar())],
            "split": {"test": ["snow_*"], "validation": 0.2},
        }
    )


@pytest.mark.parametrize(
    ("said", "name", "order"),
    [
        ("mirror", "C2", 2),
        ({"kind": "mirror", "axis": "x"}, "C2", 2),
        ({"kind": "cyclic", "order": 6}, "C6", 6),
        ({"kind": "dihedral", "order": 3}, "D3", 6),
        ("yaw", "C8", 8),
        ([{"kind": "mirror", "name": "sides"}, {"kind": "mirror", "axis": "x", "name": "ends"}], "C2xC2", 4),
    ],
)
def test_a_group_is_made_from_words(said: Any, name: str, order: int) -> None:
    fields = [{"name": "a"}]
    group = LogDescription.model_validate(
        {"files": "x", "inputs": fields, "outputs": fields, "symmetry": said}
    ).symmetry_group()
    assert group is not None
    assert (group.name, group.order) == (name, order)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            GOOD,
            GOOD + "\nloss: cross_entropy",
            "loss: cross_entropy needs labels, .*\\.npz file",
        ),
        (GOOD, "", "holds NoneType, but entries such as `files: "),
        (GOOD, "- a", "holds list, but entries"),
        (GOOD, "a: [", "is no YAML: "),
        (GOOD, "!!python/object/apply:os.system [ls]", "is no YAML: could not determine a constructor"),
        (GOOD, "2024-99-99", "is no YAML"),
        (GOOD, "\x00", "is no YAML"),
        ("files: logs/*.csv", "", "the entry 'files' is missing"),
        ("files:", "file:", "entry 'file' is unknown; did you mean 'files'.; the entry 'files' is missing"),
        ("unit: rad/s\n", "units: rad/s\n", "'inputs.0.units' is unknown; did you mean 'unit'"),
        ("validation", "valid", "'split.valid' is unknown; did you mean 'validation'"),
        ("horizon: 1", "horizon: -1", "horizon: Input should be greater than or equal to 0"),
        ("horizon: 1", "horizon: 0", "field 'yaw_rate': difference.*horizon is 0"),
        ("horizon: 1", "horizon: 1\nhorizon: 2", "the entry 'horizon' stands twice"),
        ("time: stamp", "gap: 2\nquery: anywhere", "gap is 2, but queries come from anywhere"),
        ("[0, 2]", "[0, 0]", "field 'wheels': lags holds a number twice"),
        ("difference: true", "lags: 1", "field 'yaw_rate': lags belong to inputs"),
        ("difference: true", "difference: true, cosine_sine: true", "cosine_sine cannot be combined"),
        ("symmetry: mirror", "symmetry: mirrored", "symmetry.0: Input tag 'mirrored'"),
        ("symmetry: mirror", "symmetry: cyclic", "'symmetry.0.cyclic.order' is missing"),
        ("representation: pseudoscalar", "representation: pseudo", "outputs.0.representation: Input tag 'pseudo'"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(FamilyError, match=f"husky.yaml'.*{words}"):
        read(tmp_path, GOOD.replace(old, new))


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match=r"cannot be read.*correct the path"):
        read_description(tmp_path / "no.yaml")
    with pytest.raises(FamilyError, match="larger than 1048576 bytes"):
        read(tmp_path, "#" * 2**21)


def test_aliases_that_grow_without_end_cost_nothing(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    with pytest.raises(FamilyError, match="unknown"):
        read(tmp_path, "\n".join(lines))


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(FamilyError, match=r'no_such.*pip install "msr-runtime\[data\]"'):
        require_package("no_such.part", "log 'x.csv'")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
entries = st.sampled_from([*LogDescription.model_fields, "other"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(entries, values, max_size=3))
def test_any_other_value_is_taken_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    try:
        said = read(tmp_path, yaml.safe_dump(yaml.safe_load(GOOD) | changes, allow_unicode=True))
        said.symmetry_group()
    except FamilyError:
        pass


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab:-[]{}&*!|>'\"\n #?,%@\t0é", max_size=40))
def test_any_text_is_refused_and_nothing_else_happens(tmp_path: Path, text: str) -> None:
    with pytest.raises(FamilyError):
        read(tmp_path, text)
