"""DICOM: one checked series in (ITK reads the pixels), one DICOM SEG out (highdicom).

Nothing here is decoded in the calling process: native code may abort on a damaged file.
"""

from .process import read_series, start_reader
from .seg import write_seg
from .series import Asked, Series

__all__ = ["Asked", "Series", "read_series", "start_reader", "write_seg"]
