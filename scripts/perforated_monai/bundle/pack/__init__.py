"""A bundle and the package in one zip that runs alone: the same input gives the same bytes."""

from .pack import Packed, pack_bundle

__all__ = ["Packed", "pack_bundle"]
