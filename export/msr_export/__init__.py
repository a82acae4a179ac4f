"""The exporter: it freezes a meta-trained learner into a bundle, that is a folder with ONNX graphs.

U becomes a constant. On the robot, only v and the weights made from v change:

    predict.onnx   x, weights                          -> y
    adapt.onnx     support x, support y, v, weights    -> v and weights one inner step later, and the loss
    loss.onnx      support x, support y, weights       -> loss, and the loss of each sample

With the rule `recursive`, there is no inner step. In its place:

    update.onnx    x, y, v, weights, rows, decays      -> v and weights after one sample, and the new rows
    deviation.onnx x, weights, rows, decays            -> y and its deviations

The way of a learner: `rounding` rounds U, if `cost` finds that this loses next to nothing. `freeze` builds the three
graphs, and `recursion` those of the rule `recursive`. For them, `gradients` traces the inner step, `convolutions` and
`patches` write image operators so that ONNX can hold them, `flat` does so for a network of your own, and `lowering`
writes the ONNX file. `compact` stores in fewer bytes what was rounded. `parity` and `recursion_parity` compare the
graphs with torch; `checking` does so before anything is trained. `writer` adds a description and writes the folder, if
the graphs are right.
"""

from msr_export.checking import check_exportable
from msr_export.freeze import Frozen, freeze
from msr_export.onnx_policy import load_onnx
from msr_export.parity import check_golden, check_parity
from msr_export.writer import export_bundle, export_checkpoint

__all__ = [
    "Frozen",
    "check_exportable",
    "check_golden",
    "check_parity",
    "export_bundle",
    "export_checkpoint",
    "freeze",
    "load_onnx",
]
