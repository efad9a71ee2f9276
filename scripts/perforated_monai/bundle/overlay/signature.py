"""The arguments that a class or function takes by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any


def unknown_arguments(component: Any, names: Iterable[str]) -> list[str]:
    """Those that it does not take; none where it takes any, or where that is not known."""
    try:
        parameters = inspect.signature(component).parameters.values()
    except (TypeError, ValueError):
        return []
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    taken = {p.name for p in parameters}
    return [name for name in names if name not in taken]
