"""Families are found by name, module or file. An error says in one sentence what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from msr_envs.registry import FAMILIES, load_family
from msr_runtime.errors import FamilyError

_FILE = """
from helper_beside_family import NAME


class Own:
    name, inputs, outputs, loss, query_sets = NAME, (), (), "mse", ("all",)

    def sample(self): ...

    def augment(self): ...


class Half:
    name = "half"


class Needy(Own):
    def __init__(self, size): ...


instance = Own()


def make():
    return Own()
"""


@pytest.fixture
def family_file(tmp_path: Path) -> Path:
    (tmp_path / "helper_beside_family.py").write_text("NAME = 'own'\n")
    path = tmp_path / "family.py"
    path.write_text(_FILE)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_built_in_names_load_their_family(name: str) -> None:
    """A built-in name gives the family of that name."""
    assert load_family(name).name == name


@pytest.mark.parametrize("attribute", ["Own", "instance", "make"])
def test_a_file_gives_its_class_instance_or_function(family_file: Path, attribute: str) -> None:
    """A class or a function is called, an instance is used as it is. The file may import a file beside it."""
    path = list(sys.path)
    assert load_family(f"{family_file}:{attribute}").name == "own"
    assert sys.path == path


def test_two_files_of_one_name_do_not_meet(family_file: Path, tmp_path: Path) -> None:
    """Both files have the same name, but each gives its own family."""
    other = tmp_path / "other" / "family.py"
    other.parent.mkdir()
    other.write_text(_FILE.replace("from helper_beside_family import NAME", "NAME = 'other'"))
    assert [load_family(f"{path}:Own").name for path in (family_file, other)] == ["own", "other"]


def test_a_module_is_found_by_its_name() -> None:
    """`package.module:attribute` is imported."""
    assert load_family("msr_envs.ring_nav:RingNav").name == "ring-nav"


def test_a_module_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working folder needs no installation."""
    (tmp_path / "module_in_working_folder.py").write_text(
        _FILE.replace("from helper_beside_family import NAME", "NAME='w'")
    )
    monkeypatch.chdir(tmp_path)
    assert load_family("module_in_working_folder:Own").name == "w"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "ring-nva",
            "'ring-nva' is unknown.*mean 'ring-nav'.*hex-drive, .*ring-nav.*module:attribute",
        ),
        ("zzz", r"'zzz' is unknown\. The built-in families are .*hex-drive, "),
        ("", "'' is unknown"),
        ("image:file=x.npz", "there is no built-in family 'image'. Did you mean 'images'.*hex-drive, "),
        ("logs/x.csv", r"'logs/x.csv' is a file that is not read.*x\.yaml.*`files: logs/x.csv`.*savez\('x.npz'"),
        ("x.parquet", "'x.parquet' is a file that is not read"),
        ("x.npy", "'x.npy' is a file that is not read"),
        ("family.py", "'family.py' names a file but not the family in it.*family.py:MyFamily"),
        ("missing/family.py:Own", "missing/family.py' does not exist"),
        ("no_such_package.family:Own", "no_such_package.family' could not be imported: ModuleNotFoundError"),
        ("msr_envs.ring_nav:RingNaw", "no attribute 'RingNaw'; did you mean 'RingNav'"),
        ("msr_envs.ring_nav.family:EPISODES", "is not a TaskFamily: it lacks name, inputs"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(name: str, words: str) -> None:
    """Each mistake has its own message, which offers the names that exist."""
    with pytest.raises(FamilyError, match=words):
        load_family(name)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("Half", "^a Half is not a TaskFamily: it lacks inputs, outputs, loss, query_sets, sample, augment"),
        ("Needy", r"calling Needy\(\) without arguments failed with TypeError.*size"),
        ("Absent", "has no attribute 'Absent'"),
    ],
)
def test_a_file_without_a_family_says_what_it_lacks(family_file: Path, attribute: str, words: str) -> None:
    """The message names missing members, arguments and attributes."""
    with pytest.raises(FamilyError, match=words):
        load_family(f"{family_file}:{attribute}")


def test_a_file_that_cannot_be_imported_shows_its_own_error(tmp_path: Path) -> None:
    """The original error is in the message, and is the chained exception."""
    path = tmp_path / "broken.py"
    path.write_text("value = 1 / 0\n")
    with pytest.raises(
        FamilyError, match=r"broken.py' could not be imported: ZeroDivisionError.*, in .*broken.py, line \d+"
    ) as caught:
        load_family(f"{path}:value")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_any_other_file_is_not_taken_for_a_name(tmp_path: Path) -> None:
    """Whatever its ending is."""
    (tmp_path / "drive.log").touch()
    with pytest.raises(FamilyError, match=r"drive.log' is a file that is not read.*drive.yaml.*drive.npz"):
        load_family(str(tmp_path / "drive.log"))


def test_listing_the_names_loads_no_simulator() -> None:
    """The names of the families are known without importing MuJoCo."""
    code = "import sys, msr_envs.registry; sys.exit('mujoco' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
