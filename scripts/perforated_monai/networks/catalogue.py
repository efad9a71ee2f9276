"""Networks of our own, named in a spec like MONAI's: ``base.name`` and constructor arguments."""

from .mobile import MobileUNet
from .searched import SearchedDiNTS
from .sparse.unet import SparseUNet

__all__ = ["MobileUNet", "SearchedDiNTS", "SparseUNet"]
