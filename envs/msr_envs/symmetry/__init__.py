"""Declare a robot's symmetry: the group of the body once, and with each field how the group acts on it.

A family that derives from `DeclaredSymmetry` gets `group()` and `augment()` from these words. So the test of the
augmentation, the equivariance error, the form `equivariant`, the normalization and the bundle's manifest follow.

Example:
    A cart with two wheels. A mirror swaps its wheels and negates its yaw rate:

    >>> from msr_envs.symmetry import DeclaredSymmetry, Parts, Pseudoscalar, Vector, mirror
    >>> from msr_runtime.task import Field
    >>> class Cart(DeclaredSymmetry):
    ...     name, loss, query_sets, symmetry = "cart", "mse", ("all",), mirror()
    ...     inputs = (
    ...         Field(
    ...             name="wheels", shape=(2,), unit="rad/s", low=-9, high=9, names=("left_wheel", "right_wheel"),
    ...             representation=Parts(cycles={"mirror": [("left_wheel", "right_wheel")]}),
    ...         ),
    ...         Field(name="yaw_rate", shape=(1,), unit="rad/s", low=-2, high=2, representation=Pseudoscalar()),
    ...     )
    ...     outputs = (Field(name="velocity", shape=(2,), unit="m/s", low=-1, high=1, representation=Vector()),)
    ...
    ...     def sample(self, rng, tasks, shots, queries, split): ...
    >>> print(*Cart().symmetry_in_words())
    mirror: left_wheel ↔ right_wheel, yaw_rate → −yaw_rate; of the outputs: velocity y → −y
"""

from msr_envs.symmetry.declared import DeclaredSymmetry, declared_group
from msr_envs.symmetry.group import (
    Generator,
    SymmetryGroup,
    cyclic,
    dihedral,
    generate,
    mirror,
    product,
    yaw,
)
from msr_envs.symmetry.matrices import representation_matrices
from msr_envs.symmetry.words import describe_symmetry
from msr_runtime.representation import (
    Angle,
    Matrices,
    Parts,
    Pseudoscalar,
    Pseudovector,
    Ring,
    Scalar,
    Vector,
)

__all__ = [
    "Angle",
    "DeclaredSymmetry",
    "Generator",
    "Matrices",
    "Parts",
    "Pseudoscalar",
    "Pseudovector",
    "Ring",
    "Scalar",
    "SymmetryGroup",
    "Vector",
    "cyclic",
    "declared_group",
    "describe_symmetry",
    "dihedral",
    "generate",
    "mirror",
    "product",
    "representation_matrices",
    "yaw",
]
