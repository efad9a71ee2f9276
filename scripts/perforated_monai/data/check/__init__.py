"""Everything that can be wrong with data or a bundle: one small rule each, listed at once."""

from ...rules import ERROR, NOTE, RULES, WARNING, Finding, list_rules
from .check import Audit, check_dataset, check_volume

__all__ = [
    "ERROR",
    "NOTE",
    "RULES",
    "WARNING",
    "Audit",
    "Finding",
    "check_dataset",
    "check_volume",
    "list_rules",
]
