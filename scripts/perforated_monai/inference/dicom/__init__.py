"""DICOM: one checked series in (ITK reads the pixels), one DICOM SEG out (highdicom)."""

from .seg import write_seg
from .series import read_series
from .slices import Slice

__all__ = ["Slice", "read_series", "write_seg"]
