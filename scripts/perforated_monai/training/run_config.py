"""The configuration of a run: what was merged, references unresolved."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser

from ..errors import UserError


def merged_config() -> dict[str, Any]:
    """What a configuration file gives ``RunHandler`` as ``run_config``: all that was merged.

    MONAI 1.6 hands neither its parser nor the whole configuration to an expression, and a macro of
    the root would contain itself. But while an expression is evaluated, its parser stands further
    up the stack. This function looks there, and refuses where it sees none.

    Raises:
        UserError: outside of a configuration.
    """
    config = config_of_caller()
    if not config:
        msg = (
            "perforated_monai.merged_config() must stand in a configuration file, as an expression "
            "of a bundle; here is none. In a program, give RunHandler a mapping as run_config."
        )
        raise UserError(msg)
    return config


def config_of_caller() -> dict[str, Any]:
    """The configuration that is being instantiated further up the stack, or ``{}``.

    It holds the files and all overrides, references unresolved: the text that would run the same
    again. ``RunHandler`` asks here when a configuration gives it no ``run_config``.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return {k: v for k, v in dict(owner.get()).items() if k != "_meta_"}
        frame = frame.f_back
    return {}
