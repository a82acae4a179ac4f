"""A camera above a table, and small parts that nobody has seen before: images for few-shot learning.

`draw_part` makes a part of MuJoCo's primitive shapes. `Table` lays several parts down, in any pose, and renders what
the camera sees. `write_parts` makes a file of many parts for the family `images`.
"""

from msr_envs.table.archive import write_parts
from msr_envs.table.parts import Part, draw_part
from msr_envs.table.scene import PLACES, VIEW, Table, as_inputs

__all__ = ["PLACES", "VIEW", "Part", "Table", "as_inputs", "draw_part", "write_parts"]
