"""The symmetry matrix U: its forms, the reparameterized layer, known groups, and measures of a learned U.

A layer of a network has a weight W, here of shape `(m, n)`. A reparameterized layer computes W from two parts:

    W = reshape(U v)        U: (m n, k)        v: (k,)

v, the filter parameters, holds k numbers. The robot changes them when it adapts to a task. U, the symmetry matrix, says
where in W each number of v appears. U is learned from many tasks and fixed on the robot.

For example, a filter `(a, b)` slides over three inputs, as in a convolution. Then k is 2, and W has 6 entries:

      U       v        U v            W
    [1 0]   [ a ]     [ a ]
    [0 1]   [ b ]     [ b ]     [ a  b  0 ]
    [0 0]             [ 0 ]     [ 0  a  b ]
    [0 0]             [ 0 ]
    [1 0]             [ a ]
    [0 1]             [ b ]

Two rows of U that are equal make two entries of W equal: U shares one number between them. Nobody writes this U down.
Meta-training finds it, and the symmetry of the tasks with it. What U can share depends on its form:

    form         U for W (m, n)                learned numbers   what it can share
    full         dense (m n, k)                m n k             any entry with any other
    per-input    one U for every column of W   m k               entries of one column (one input channel);
                                                                 every column is shared in the same way
    kronecker    sum over r of A_r ⊗ B_r       R (m² + n²)       R = 1: nothing, it only mixes rows and columns;
                                                                 R > 1: a group with R elements
    equivariant  Q times a dense U (d, k)      d k               what a known group requires, always and exactly
                 for convolutions: U is a                        the same for flips and quarter turns of images: an
                 0/1 matrix (m n, k)           none              entry is one number with all that the group makes of it

R is the number of terms. Q is fixed: it spans the d dimensions of all W that commute with the known group.
"""

from msr_runtime.meta.symmetry.discovery import find_group
from msr_runtime.meta.symmetry.equivariant import equivariant_basis, mlp_actions, multiplication_table, regular
from msr_runtime.meta.symmetry.finding import Discovery, discover_group, known_group
from msr_runtime.meta.symmetry.forms import (
    EquivariantSymmetry,
    FullSymmetry,
    KroneckerSymmetry,
    PerInputSymmetry,
    SharingSymmetry,
    Symmetry,
)
from msr_runtime.meta.symmetry.grid import FilterAction, GridGroup, GridName
from msr_runtime.meta.symmetry.grid_discovery import GridFinding, find_grid_group
from msr_runtime.meta.symmetry.measures import energy, equivariance_error, held, recovery
from msr_runtime.meta.symmetry.reparameterize import (
    Form,
    LayerReport,
    LayerSpec,
    filter_parameter_names,
    fold,
    reparameterize,
)
from msr_runtime.meta.symmetry.words import in_words

__all__ = [
    "Discovery",
    "EquivariantSymmetry",
    "FilterAction",
    "Form",
    "FullSymmetry",
    "GridFinding",
    "GridGroup",
    "GridName",
    "KroneckerSymmetry",
    "LayerReport",
    "LayerSpec",
    "PerInputSymmetry",
    "SharingSymmetry",
    "Symmetry",
    "discover_group",
    "energy",
    "equivariance_error",
    "equivariant_basis",
    "filter_parameter_names",
    "find_grid_group",
    "find_group",
    "fold",
    "held",
    "in_words",
    "known_group",
    "mlp_actions",
    "multiplication_table",
    "recovery",
    "regular",
    "reparameterize",
]
