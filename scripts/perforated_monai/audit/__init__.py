"""Everything that can be wrong with data or a bundle: one small rule each, listed at once."""

from .check import Audit, check_dataset, check_volume
from .finding import ERROR, NOTE, WARNING, Finding
from .registry import RULES, list_rules

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
