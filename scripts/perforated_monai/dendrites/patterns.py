"""Shell patterns over module names."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(name: str, patterns: list[str]) -> bool:
    """Whether a module name matches one of some shell patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
