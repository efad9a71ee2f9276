"""What the tracker answers to a validation score."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What one validation score led to.

    ``event`` is ``""`` (train on), ``"grow"`` (a set was added), ``"retry"`` (the last set was
    rejected and another one drawn) or ``"complete"`` (no more growth; the best network is back).
    """

    event: str
    sets: int
    rejected: bool = False

    @property
    def restructured(self) -> bool:
        return self.event in ("grow", "retry")
