"""Segment volumes and folders of scans with a bundle: nothing lost, nothing wrong."""

from .folder import Summary, segment_folder
from .options import Options
from .pipeline import Bundle, load_bundle
from .segmenter import Segmenter, segment_volume
from .states import Segmentation

__all__ = [
    "Bundle",
    "Options",
    "Segmentation",
    "Segmenter",
    "Summary",
    "load_bundle",
    "segment_folder",
    "segment_volume",
]
