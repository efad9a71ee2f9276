"""Everything that can be wrong with data: one small rule each, and all of it listed at once."""

from ...rules import ERROR, NOTE, WARNING, Finding
from .check import Audit, check_dataset, check_volume

__all__ = [
    "ERROR",
    "NOTE",
    "WARNING",
    "Audit",
    "Finding",
    "check_dataset",
    "check_volume",
]
