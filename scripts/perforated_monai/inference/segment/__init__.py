"""Segment volumes and folders of scans with a bundle: nothing lost, nothing wrong."""

from .folder import Summary, segment_folder
from .pipeline import InferenceBundle, load_bundle
from .segmenter import Segmenter, segment_volume
from .states import Options, Segmentation

__all__ = [
    "InferenceBundle",
    "Options",
    "Segmentation",
    "Segmenter",
    "Summary",
    "load_bundle",
    "segment_folder",
    "segment_volume",
]
