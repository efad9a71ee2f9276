"""Phantoms: seeded volumes with labels in the layout of the Medical Segmentation Decathlon."""

from .ct import ct_phantom
from .glioma import glioma_phantom
from .hippocampus import hippocampus_phantom
from .tumour import tumour_phantom
from .writer import GENERATOR_VERSION, make_phantoms

__all__ = [
    "GENERATOR_VERSION",
    "ct_phantom",
    "glioma_phantom",
    "hippocampus_phantom",
    "make_phantoms",
    "tumour_phantom",
]
