"""Segment volumes and folders of scans with a bundle: nothing lost, nothing wrong."""

from .bundle_code import bundle_code
from .folder import Summary, segment_folder
from .load import load_bundle
from .pipeline import InferenceBundle
from .segmenter import Segmenter, segment_volume
from .states import Options, Segmentation

__all__ = [
    "InferenceBundle",
    "Options",
    "Segmentation",
    "Segmenter",
    "Summary",
    "bundle_code",
    "load_bundle",
    "segment_folder",
    "segment_volume",
]
