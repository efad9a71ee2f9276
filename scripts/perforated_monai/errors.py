"""The exception for everything a user can cause and cure, and whose process it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class UserError(ValueError):
    """A rule was broken by input, a setting or a file; the message states rule, value and cure.

    Our commands print it as one line and exit 1; under ``monai.bundle run`` it is the last line of
    the traceback.
    """


class UsageError(Exception):
    """A command was given wrongly; exit code 2."""


def is_bundle_run(argv: Sequence[str]) -> bool:
    """Whether this process was started as ``python -m monai.bundle run``.

    Such a process belongs to the run and ends with it. Any other is its program's, and nothing of
    it that outlives a run may be changed unasked.

    Args:
        argv: the process's ``sys.argv``.
    """
    script = Path(argv[0]).as_posix() if argv else ""
    return script.endswith("monai/bundle/__main__.py") and list(argv[1:2]) == ["run"]
