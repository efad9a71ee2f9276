"""A stranger's training config -> an overlay that grows dendrites in it, without running it."""

from .make import Choices, make_overlay
from .watch import bundle_unchanged, watch_bundle

__all__ = ["Choices", "bundle_unchanged", "make_overlay", "watch_bundle"]
