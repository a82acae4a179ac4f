"""What the exporter found in U that saves work, and what leaving the rest out costs."""

from pydantic import PositiveInt

from msr_runtime.bundle.cost import growth, percent
from msr_runtime.bundle.frozen import Frozen, Size

MOST_STRUCTURE_COST = 0.02
"""The error after adapting may grow by no more than this share when U is made smaller."""
MOST_ERROR_LEFT = 0.5
"""U is made smaller only where adapting leaves no more than this share of the error."""


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
    """How many different rows U has beside zero, if equal rows are stored once. None: each number has its own row."""

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
            return f"{self.weight} {self.rows} different rows of {self.numbers}"
        return f"{self.weight} {self.columns} columns of {self.columns_before}"


class ManyShots(Frozen):
    """What a smaller U costs a robot that adapts to more samples than in meta-training."""

    shots: PositiveInt
    """Support samples per task, as the family counts them."""
    error: Size
    """The mean error of the smaller learner."""
    full_error: Size
    """The mean error of the learner as it was trained."""


class Structure(Frozen):
    """The smaller U of each layer, and what it costs.

    It is found before U is rounded, and before anything is traced, measured or compared with torch. The errors are
    measured as those of `Rounding`, on validation tasks by which nothing was chosen.
    """

    layers: tuple[LayerStructure, ...]
    """The layers whose U got smaller. Empty: nothing could be left out within the tolerance."""
    tasks: PositiveInt
    """The number of validation tasks."""
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
    def cost(self) -> float:
        """By what share the error gets larger, the worse of both. Below zero: smaller."""
        sides = (self, self.many) if self.many else (self,)
        return max(growth(each.error, each.full_error) for each in sides)

    def describe(self) -> str:
        """Say in one line what was found, what it buys and what it costs."""
        if not self.layers:
            return self._nothing()
        bought = f"{self.multiply_adds} of {self.full_multiply_adds} multiplications a product with U"
        sides = f"error {self.error:.5g}, before {self.full_error:.5g}, on {self.tasks} validation tasks"
        cost = percent(growth(self.error, self.full_error))
        if self.many:
            cost += f", with {self.many.shots} samples {percent(growth(self.many.error, self.many.full_error))}"
        return f"{bought}; {sides}: {cost}; {', '.join(layer.describe() for layer in self.layers)}"

    def _nothing(self) -> str:
        if self.unadapted_error is not None and self.full_error > MOST_ERROR_LEFT * self.unadapted_error:
            return (
                "nothing of U is left out, because adapting helps too little to say what it needs: error "
                f"{self.full_error:.5g}, without adapting {self.unadapted_error:.5g}, on {self.tasks} validation tasks"
            )
        return f"nothing of U can be left out within {100 * MOST_STRUCTURE_COST:g} % more error"
