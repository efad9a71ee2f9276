"""A bundle's own package ``scripts``, importable for a while by someone who trusts the bundle."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..networks.makers import OWN


def has_own_code(bundle: Path, config: Any) -> bool:
    """Whether a bundle has a ``scripts`` folder and a config names something in it."""
    there = any((bundle / OWN).glob("*.py"))
    return there and OWN in _words(config)


@contextlib.contextmanager
def own_code(bundle: str | Path) -> Iterator[None]:
    """Put a bundle's folder first on ``sys.path``; another bundle's ``scripts`` is forgotten.

    Two bundles have a package of this one name. Classes that were made from the former stay alive.
    """
    place = str(Path(bundle).resolve())
    forget_own_code()
    importlib.invalidate_caches()
    # A regular package of another folder would win over one without __init__.py.
    before = list(sys.path)
    others = [p for p in before if not (Path(p) / OWN / "__init__.py").is_file()]
    sys.path[:] = [place, *others]
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # nothing is written into the bundle
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        sys.path[:] = before
        forget_own_code()


def forget_own_code() -> None:
    """Let ``scripts`` be looked for anew: another bundle's may have been imported before."""
    for name in [n for n in sys.modules if n.partition(".")[0] == OWN]:
        del sys.modules[name]


def _words(value: Any) -> set[str]:
    """Every word of the texts in a config."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set().union(*map(_words, value))
    text = value if isinstance(value, str) else ""
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())
