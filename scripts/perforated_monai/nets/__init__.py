"""Networks of our own, named in a spec like MONAI's: ``base.name`` and constructor arguments."""

from .mobile import MobileUNet

__all__ = ["MobileUNet"]
