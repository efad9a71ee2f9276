"""A tiny bundle made from the shipped configs, and small volumes with a known geometry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from perforated_monai import build_network
from perforated_monai.segment import Segmenter

SHIPPED = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
