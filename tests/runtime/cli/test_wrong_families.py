"""Nothing wrong trains silently: wrong families, each refused or warned of in one sentence, before any training."""

import os
from pathlib import Path

import pytest

RIGHT = '''
import numpy as np
from msr_runtime.task import SPLITS, Field, Group, TaskBatch


def field(name, low=-2.0, high=2.0, unit="m/s"):
    return Field(name=name, shape=(1,), unit=unit, low=low, high=high)


class Robot:
    """Two wheels in, forward speed and yaw rate out. A mirror swaps the wheels and turns the yaw rate round."""

    name, loss, query_sets = "robot", "mse", ("all",)
    inputs = (field("left"), field("right"))
    outputs = (field("speed"), field("yaw_rate", unit="rad/s"))

    def sample(self, rng, tasks, shots, queries, split):
        rng = np.random.default_rng([SPLITS.index(split), *rng.integers(2**32, size=4)])
        x = rng.uniform(-1, 1, (tasks, shots + queries, 2))
        y = self.drive(x, rng.uniform(0.5, 1.5, (2, tasks, 1))).astype(np.float32)
        x = x.astype(np.float32)
        return TaskBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])

    def drive(self, x, gains):
        speed, turn = x.sum(-1) / 2, (x[..., 1] - x[..., 0]) / 2
        return np.stack([gains[0] * speed, gains[1] * turn], -1)

    def augment(self, rng, x, y):
        flip = rng.choice([False, True], (*x.shape[:-1], 1))
        return np.where(flip, x[..., ::-1], x), np.where(flip, y * np.float32([1, -1]), y)

    def group(self):
        return Group("mirror", np.stack([np.eye(2), np.eye(2)[::-1]]), np.stack([np.eye(2), np.diag([1.0, -1.0])]))

'''
"""A family that keeps the contract. Each wrong one replaces a part of it."""
WHEELS = """
class Wrong(Robot):
    def drive(self, x, gains):
        return Robot.drive(self, x * np.moveaxis(gains, 0, -1), np.ones((2, 1)))
"""
DOUBTFUL = """
class Wrong(Robot):
    def drive(self, x, gains):
        wheels = Robot.drive(self, x * np.moveaxis(gains, 0, -1), np.ones((2, 1)))
        return Robot.drive(self, x, np.ones((2, 1))) + 0.02 * wheels
"""

WRONG = {
    "a group that contradicts augment": (
        "def group(self): return Group('turn', np.stack([np.eye(2), -np.eye(2)]), np.stack([np.eye(2), -np.eye(2)]))",
        "augment returned an x that no element of group() gives",
    ),
    "outputs turned the other way in the group": (
        "def group(self): return Group('mirror', np.stack([np.eye(2), np.eye(2)[::-1]]), np.stack([np.eye(2)] * 2))",
        "augment moved an x by one element and its y by none that fits",
    ),
    "an augmentation that does nothing beside a group": (
        "def augment(self, rng, x, y): return x, y",
        "augment moved all 32 examples of a task by element 0",
    ),
    "splits that share tasks": (
        "def sample(self, *call): return Robot.sample(self, *call[:-1], 'train')",
        "splits 'train' and 'validation' share a task",
    ),
    "float64": (
        "def sample(self, *call): return TaskBatch(*(a.astype(float) for a in Robot.sample(self, *call)))",
        "gave support_x the dtype float64, but it must be float32",
    ),
    "values outside their fields": (
        "inputs = (field('left', -0.1, 0.1), field('right'))",
        "in field 'left', far outside its bounds -0.1 to 0.1",
    ),
    "a sign that a field cannot have": (
        "inputs = (field('left', -0.05, 1.05), field('right', -0.05, 1.05))\n"
        "    group = property()\n"
        "    def sample(self, *call): return TaskBatch(*(abs(a) for a in Robot.sample(self, *call)))\n"
        "    def augment(self, rng, x, y): return [(x, y), (-x, -y)][rng.integers(2)]",
        "augment gave values from ",
    ),
    "fewer samples than asked for": (
        "def sample(self, *call): return TaskBatch(*(a[:, :-1] for a in Robot.sample(self, *call)))",
        "gave support_x the shape (1, 0, 2), but it must be (1, 1, 2)",
    ),
    "NaN": (
        "def drive(self, x, gains): return Robot.drive(self, x, gains) * np.where(x > 0.9, np.nan, 1.0)",
        "but every value must be finite; the likely cause is a division by zero or a simulation that blew up",
    ),
    "chance from elsewhere than rng": (
        "def drive(self, x, gains): return Robot.drive(self, x, gains) + np.random.default_rng().normal() / 9",
        "sample gave different batches for equal generators",
    ),
    "no chance at all": (
        "def sample(self, rng, *call): return Robot.sample(self, np.random.default_rng(0), *call)",
        "sample gave the same batch for differently seeded generators",
    ),
    "an error in sample": (
        "def drive(self, x, gains): return gains[7]",
        "(rng, 1, 1, 1, 'train') failed with IndexError: index 7 is out of bounds for axis 0 with size 2, in FILE",
    ),
    "an error in augment": (
        "def augment(self, rng, x, y): return x.swap(), y",
        "augment(rng, x, y) failed with AttributeError: 'numpy.ndarray' object has no attribute 'swap', in FILE",
    ),
    "an error in group": (
        "def group(self): return Group('mirror', matrices, matrices)",
        "group() failed with NameError: name 'matrices' is not defined, in FILE",
    ),
    "an error in a property": (
        "@property\n    def outputs(self): return self.fields",
        "outputs failed with AttributeError: 'Wrong' object has no attribute 'fields', in FILE",
    ),
    "a member that is missing": ("query_sets = property()", "query_sets failed with AttributeError"),
    "a loss that is unknown": ("loss = 'l2'", "loss is 'l2', but it must be one of mse, huber, cross_entropy"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_family_is_refused_in_one_sentence(wrong: str, tmp_path: Path, msr, refusal) -> None:
    """It names the family and what is wrong, without a traceback. Nothing is written."""
    member, says = WRONG[wrong]
    file = tmp_path / "robot.py"
    file.write_text(f"{RIGHT}\nclass Wrong(Robot):\n    {member}\n")
    assert msr("train", f"{file}:Wrong", tmp_path / "run") == 2
    said = refusal()
    last = len(file.read_text().splitlines())
    assert says.replace("FILE", f"{file}, line {last}; correct `") in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def _train(msr, file: Path, tiny: list[str]) -> int:
    without_insisting = [option for option in tiny if "insist" not in option]
    return msr("train", f"{file}:Wrong", file.parent / "run", *without_insisting, "--settings.steps", 1)


@pytest.mark.parametrize(
    ("family", "verdict"),
    [("\nWrong = Robot\n", "a symmetry of each task"), (DOUBTFUL, "IN DOUBT whether a symmetry of each task")],
    ids=["right", "in doubt"],
)
def test_the_verdict_is_printed_and_a_doubt_is_warned_of(
    family: str, verdict: str, tmp_path: Path, msr, tiny, capsys
) -> None:
    """With its figures. y of the doubtful family holds the speed, so wheels that differ hardly show in it."""
    file = tmp_path / "robot.py"
    file.write_text(RIGHT + family)
    assert _train(msr, file, tiny) == 0
    out, err = capsys.readouterr()
    assert f"augmentation  {verdict}: held-out error of " in out
    warnings = [line for line in err.splitlines() if "WARNING" in line]
    assert len(warnings) == (family == DOUBTFUL)
    for warning in warnings:
        assert "msr: WARNING: family 'robot': it is in doubt whether the group mirror is a symmetry" in warning
        assert "let y be the change of the state" in warning


def test_wheels_of_different_strength_are_refused(tmp_path: Path, msr, tiny, capsys) -> None:
    """A mirror swaps them, and so moves each task onto another one."""
    file = tmp_path / "robot.py"
    file.write_text(RIGHT + WHEELS)
    assert _train(msr, file, tiny) == 2
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("msr: "))
    assert "family 'robot': the group mirror is not a symmetry of each of its tasks" in said
    assert not (tmp_path / "run").exists()


LISTED = """
class Wrong(Robot):
    def drive(self, x, gains): return Robot.drive(self, x, 0.5 + np.round(2 * gains - 1) / 2)
"""
APART = """
class Wrong(Robot):
    def sample(self, *call):
        batch = Robot.sample(self, *call)
        return batch._replace(query_x=batch.query_x[::-1], query_y=batch.query_y[::-1])
"""
ALIKE = """
class Wrong(Robot):
    def drive(self, x, gains): return Robot.drive(self, x, np.ones_like(gains))
"""
NOISE = """
class Wrong(Robot):
    def drive(self, x, gains): return x[:, np.random.default_rng(int(1e6 * abs(x[0, 0, 0]))).permutation(x.shape[1])]
"""


@pytest.mark.parametrize(
    ("family", "cause"),
    [
        (APART, "that support and queries are of different tasks, units or order"),
        (ALIKE, "that all tasks are alike"),
        (NOISE, "that x lacks what y depends on, or that rows of x and y do not belong together"),
    ],
    ids=["queries of another task", "tasks alike", "noise"],
)
def test_a_support_set_that_does_not_tell_the_task_is_warned_of(
    family: str, cause: str, tmp_path: Path, msr, tiny, capsys
) -> None:
    """Such a family keeps the contract, and its training would only seem to go well."""
    file = tmp_path / "robot.py"
    file.write_text(RIGHT + family)
    assert msr("train", f"{file}:Wrong", tmp_path / "run", *tiny, "--settings.steps", 1) == 0
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
    assert "msr: WARNING: family 'robot': the support set of a task predicts its queries no better than that" in said
    assert f"the likely cause is {cause}" in said.replace("The likely", "the likely")


UNIT = """
class Wrong(Robot):
    def sample(self, *call):
        batch = Robot.sample(self, *call)
        return batch._replace(support_y=batch.support_y / np.float32(57.3))

    def drive(self, x, gains):
        turn = 6 * gains[0]
        cos, sin = np.cos(turn), np.sin(turn)
        return np.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]], -1)
"""
REPEATS = """
class Wrong(Robot):
    def sample(self, rng, tasks, shots, queries, split):
        batch, again = Robot.sample(self, rng, tasks, shots, queries, split), np.arange(queries) % shots
        return batch._replace(query_x=batch.support_x[:, again], query_y=batch.support_y[:, again])
"""
LAID_OUT = """
class Wrong(Robot):
    def drive(self, x, gains):
        return Robot.drive(self, x, np.linspace(0.5, 1.5, len(x))[None, :, None] * np.ones((2, 1, 1)))
"""
MILLIMETRES = """
class Wrong(Robot):
    def drive(self, x, gains): return Robot.drive(self, x, gains) / 1000
"""


@pytest.mark.parametrize(
    ("family", "says"),
    [
        (UNIT, "is about 0.01"),
        (REPEATS, "100 % of the queries of a task are samples of its support set"),
        (LAID_OUT, "differ between 48 tasks that are drawn together and 48 that are drawn one by one"),
        (MILLIMETRES, "% of its declared range, -2 to 2; the likely cause is another unit, such as mm in place of m"),
    ],
    ids=["a support set in radians", "queries that repeat", "gains laid out over the batch", "millimetres"],
)
def test_samples_that_keep_the_contract_and_are_wrong_are_warned_of(
    family: str, says: str, tmp_path: Path, msr, tiny, capsys
) -> None:
    """In a sentence for each thing."""
    file = tmp_path / "robot.py"
    file.write_text(RIGHT + family)
    wide = ["--settings.no-augment"] if family is UNIT else []
    assert msr("train", f"{file}:Wrong", tmp_path / "run", *tiny, *wide, "--settings.steps", 1) in (0, 2)
    said = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert any(line.startswith("msr: WARNING: family 'robot': ") and says in line for line in said), said


def test_splits_that_draw_from_one_list_are_warned_of(tmp_path: Path, msr, tiny, capsys) -> None:
    """Their samples differ, so that no task is there twice byte for byte."""
    file = tmp_path / "robot.py"
    file.write_text(RIGHT + LISTED)
    assert msr("train", f"{file}:Wrong", tmp_path / "run", *tiny, "--settings.steps", 1) == 0
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
    assert "msr: WARNING: family 'robot': " in said
    assert "of 24 tasks of the split 'test' seem to be among 24 tasks of 'train'" in said


BLOWS_UP = """
class Wrong(Robot):
    def sample(self, rng, tasks, *call):
        batch = Robot.sample(self, rng, tasks, *call)
        if tasks > 10:
            batch.query_y[10, 0, 0] = np.nan
        return batch
"""
STILL = """
class Wrong(Robot):
    def drive(self, x, gains): return np.full(x.shape, 0.5)
"""


@pytest.mark.parametrize(
    ("family", "says"),
    [
        (BLOWS_UP, "put nan into query_y of task 10, but every value must be finite"),
        (STILL, "y ('speed', 'yaw_rate') is [0.5, 0.5] in every sample, so there is nothing to learn"),
    ],
    ids=["few tasks blow up", "y stands still"],
)
def test_samples_without_use_are_refused(family: str, says: str, tmp_path: Path, msr, tiny, refusal) -> None:
    """Though single batches are well formed."""
    file = tmp_path / "robot.py"
    file.write_text(RIGHT + family)
    assert msr("train", f"{file}:Wrong", tmp_path / "run", *tiny) == 2
    assert says in refusal()


LATE = """
class Wrong(Robot):
    def sample(self, rng, tasks, shots, queries, split):
        if tasks > 16:
            raise RuntimeError("the simulator blew up")
        return Robot.sample(self, rng, tasks, shots, queries, split)
"""


def test_an_error_that_comes_late_names_its_line_too(tmp_path: Path, msr, tiny, refusal, capsys, monkeypatch) -> None:
    """Wherever the user's code fails, in one sentence; MSR_TRACEBACK=1 shows the way to it."""
    file = tmp_path / "robot.py"
    file.write_text(RIGHT + LATE)
    line = 1 + (RIGHT + LATE).splitlines().index('            raise RuntimeError("the simulator blew up")')
    asked = ["train", f"{file}:Wrong", tmp_path / "run", *tiny]
    assert msr(*asked) == 2
    assert f"msr: {file}, line {line} raised RuntimeError: the simulator blew up; correct it." in refusal()
    monkeypatch.setitem(os.environ, "MSR_TRACEBACK", "1")
    assert msr(*asked) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last):" in err
    assert err.splitlines()[-1].startswith(f"msr: {file}, line {line} raised RuntimeError")
