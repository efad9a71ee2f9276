"""Segment volumes and folders of scans with a bundle: nothing lost, nothing wrong."""

from .bundle import Bundle, load_bundle
from .options import Options
from .run import Summary, segment_folder
from .segmenter import Segmenter, segment_volume
from .volume import Segmentation

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
