"""The configuration of a run: what was merged, references unresolved."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser


def config_of_caller() -> dict[str, Any]:
    """The merged configuration that is being instantiated further up the stack, or ``{}``.

    A component cannot ask MONAI's parser for the whole configuration (a macro of the root would
    contain itself), so the parser is found in the calling frames. It holds the files and all
    overrides, references unresolved: the text that would run the same again.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return {k: v for k, v in dict(owner.get()).items() if k != "_meta_"}
        frame = frame.f_back
    return {}
