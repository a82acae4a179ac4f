"""Freeze a meta-trained learner into a bundle: U as constants, v the only thing that changes."""

from msr_export.freeze import Frozen, freeze
from msr_export.parity import check_golden, check_parity
from msr_export.writer import export_bundle

__all__ = ["Frozen", "check_golden", "check_parity", "export_bundle", "freeze"]
