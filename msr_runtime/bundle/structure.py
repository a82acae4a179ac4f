"""What the exporter found in U that saves work, and what leaving the rest out costs."""

from pydantic import PositiveInt

from msr_runtime.bundle.cost import growth, percent
from msr_runtime.bundle.frozen import Frozen, Size

MOST_STRUCTURE_COST = 0.02
"""The error after adapting may grow by no more than this share when U is made smaller."""
MOST_ERROR_LEFT = 0.5
"""U is made smaller only where adapting leaves no more than this share of the error."""
LEAST_SAVED = 0.1
"""U is made smaller only if this takes away so large a share of the multiplications, or more."""
FEWEST_TASKS = 8
"""U is made smaller only if there are so many different validation tasks."""
_MOST_LINES = 8
"""Most layers that have a line of their own."""


class LayerStructure(Frozen):
    """How one weight is made of its v, and what a product with U costs."""

    weight: str
    """The folded weight, for example `layers.0.weight`."""
    numbers: PositiveInt
    """The numbers of the weight, or of its coordinates in the basis of the form `equivariant`."""
    columns: PositiveInt
    """The columns of U that are left: the numbers of v."""
    columns_before: PositiveInt
    """The columns of U that were learned."""
    rows: PositiveInt | None = None
    """How many different rows U has besides zero, if equal rows are stored once. None: each number has its own row."""

    @property
    def multiply_adds(self) -> int:
        """The multiplications of one product with U."""
        return (self.rows or self.numbers) * self.columns

    @property
    def multiply_adds_before(self) -> int:
        """The multiplications of one product with the U that was learned."""
        return self.numbers * self.columns_before

    def describe(self) -> str:
        """Say in a few words what U became."""
        if self.rows is not None:
            return f"{self.rows} different rows of {self.numbers}"
        return f"{self.columns} columns of {self.columns_before}"


class ManyShots(Frozen):
    """What a smaller U costs a robot that adapts to more samples than in meta-training."""

    shots: PositiveInt
    """Support samples per task, as the family counts them."""
    error: Size
    """The mean error of the smaller learner."""
    full_error: Size
    """The mean error of the learner as it was trained."""
    unadapted_error: Size | None = None
    """The mean error without adapting."""


class Structure(Frozen):
    """The smaller U of each layer, and what it costs.

    It is found before U is rounded, and before anything is traced, measured or compared with torch. The errors are
    measured as those of `Rounding`, on validation tasks that had no part in the choice. A family of few recorded tasks
    gives other samples of the same tasks.
    """

    layers: tuple[LayerStructure, ...]
    """The layers whose U got smaller. Empty: too little could be left out within the tolerance, or the tasks could not
    say what is needed."""
    tasks: PositiveInt
    """The number of different validation tasks."""
    error: Size
    """The mean error of the smaller learner."""
    full_error: Size
    """The mean error of the learner as it was trained."""
    unadapted_error: Size | None = None
    """The mean error without adapting."""
    many: ManyShots | None = None
    """The same with many samples. None: the family gives no more than meta-training took."""
    multiply_adds: PositiveInt
    """The multiplications of one product with every U."""
    full_multiply_adds: PositiveInt
    """The same, of the learner as it was trained."""

    @property
    def _sides(self) -> "tuple[Structure | ManyShots, ...]":
        return (self, self.many) if self.many else (self,)

    @property
    def cost(self) -> float:
        """By what share the error gets larger, the worse of both. Below zero: smaller."""
        return max(growth(each.error, each.full_error) for each in self._sides)

    @property
    def unclear(self) -> str:
        """Why validation tasks cannot say what adapting needs of U. Empty if they can."""
        if self.tasks < FEWEST_TASKS:
            return f"{self.tasks} validation tasks are too few to say what it needs; {FEWEST_TASKS} are wanted"
        for each in self._sides:
            if each.unadapted_error is not None and each.full_error > MOST_ERROR_LEFT * each.unadapted_error:
                shots = "" if each is self or self.many is None else f" with {self.many.shots} samples"
                return (
                    f"adapting helps too little to say what it needs: error {each.full_error:.5g}{shots}, without "
                    f"adapting {each.unadapted_error:.5g}"
                )
        return ""

    def describe(self) -> dict[str, str]:
        """Say in a few short lines what was found, what it buys and what it costs: name of a line to its text."""
        if not self.layers:
            why = self.unclear or (
                f"less than {100 * LEAST_SAVED:g} % could be left out within {100 * MOST_STRUCTURE_COST:g} % more error"
            )
            return {"structure": f"all of U is kept: {why}"}
        large = sorted(self.layers, key=lambda layer: layer.multiply_adds - layer.multiply_adds_before)[:_MOST_LINES]
        others = len(self.layers) - len(large)
        return {
            "structure": f"{self.multiply_adds} of {self.full_multiply_adds} multiplications per product with U",
            "structure costs": f"{_compared(self)}, on {self.tasks} validation tasks",
            **({f"with {self.many.shots} samples": _compared(self.many)} if self.many else {}),
            **{f"U of {layer.weight}": layer.describe() for layer in self.layers if layer in large},
            **({"other weights": f"{others}, of which each saves less"} if others else {}),
        }


def _compared(side: Structure | ManyShots) -> str:
    cost = percent(growth(side.error, side.full_error))
    return f"{cost} error, {side.error:.5g} in place of {side.full_error:.5g}"
