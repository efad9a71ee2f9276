"""Grow dendrites in compressed MONAI networks, and ship them as plain ones.

Names load when first asked for: exported bundles run without the training parts, and commands that
need no network start without torch.
"""

from typing import TYPE_CHECKING

from . import _public
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .bundle.overlay.watch import bundle_unchanged, watch_bundle
    from .bundle.overrides import guard_command_line
    from .data.affine_crop import RandAffineCropd
    from .data.dataset import CaseDataset, EpochSampler
    from .data.lists import datalist, find_volumes
    from .data.one_hot import OneHotd
    from .data.regions import LabelRegionsd
    from .dendrites.config import DendriteConfig
    from .dendrites.layer import DendriticLayer
    from .errors import UserError
    from .growth.handler import DendriteHandler
    from .networks.build import build_network
    from .networks.weights import load_weights
    from .training.case_table import CaseTable
    from .training.distillation import DistillationLoss
    from .training.run_config import merged_config
    from .training.run_handler import RunHandler
    from .training.sparsity_handler import SparsityHandler

__all__ = [
    "CaseDataset",
    "CaseTable",
    "DendriteConfig",
    "DendriteHandler",
    "DendriticLayer",
    "DistillationLoss",
    "EpochSampler",
    "LabelRegionsd",
    "OneHotd",
    "RandAffineCropd",
    "RunHandler",
    "SparsityHandler",
    "UserError",
    "build_network",
    "bundle_unchanged",
    "datalist",
    "find_volumes",
    "guard_command_line",
    "load_weights",
    "merged_config",
    "watch_bundle",
]

_public.register_modules(__name__)


def __getattr__(name: str) -> object:
    """Import the module of a public name."""
    return _public.load(__name__, name)
