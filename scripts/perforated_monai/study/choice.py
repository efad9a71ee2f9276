"""``Choice``: what a sweep has chosen for one trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """Keys of train.json with their values, and settings of growth; None trains the plain net."""

    settings: dict[str, Any]
    growth: dict[str, Any] | None
