"""Segment volumes and folders of scans with a bundle: nothing lost, nothing wrong."""

from .bundle_code import bundle_code
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
    "bundle_code",
    "load_bundle",
    "segment_folder",
    "segment_volume",
]
