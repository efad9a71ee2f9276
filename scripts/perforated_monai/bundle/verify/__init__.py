"""Judge a packed or foreign bundle without running anything of it."""

from .verify import Verdict, verify

__all__ = ["Verdict", "verify"]
