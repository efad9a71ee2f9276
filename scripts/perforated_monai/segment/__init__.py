"""Segment volumes and folders of scans with a bundle: nothing lost, nothing wrong."""

from .bundle import Bundle, load_bundle
from .run import Options, Summary, segment_folder
from .segmenter import Segmentation, Segmenter, segment_volume

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
