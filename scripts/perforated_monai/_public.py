"""The public names: what configs, packed bundles and notebooks may call, and where it lives.

A name here keeps working wherever its code moves; verify allows exactly these in a foreign bundle.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

# Public name -> the module that defines it.
NAMES = {
    "CaseDataset": "data.dataset",
    "CaseTable": "training.case_table",
    "DendriteConfig": "dendrites.config",
    "DendriteHandler": "growth.handler",
    "DendriticLayer": "dendrites.layer",
    "DistillationLoss": "training.distillation",
    "EpochSampler": "data.dataset",
    "LabelRegionsd": "data.regions",
    "OneHotd": "data.one_hot",
    "RandAffineCropd": "data.affine_crop",
    "RunHandler": "training.run_handler",
    "SparsityHandler": "training.sparsity_handler",
    "UserError": "errors",
    "build_network": "networks.build",
    "bundle_unchanged": "bundle.overlay.watch",
    "datalist": "data.lists",
    "find_volumes": "data.lists",
    "guard_command_line": "bundle.overrides",
    "load_weights": "networks.weights",
    "merged_config": "training.run_config",
    "watch_bundle": "bundle.overlay.watch",
}

# Public module -> where its code lives: `perforated_monai.nets.MobileUNet` stands in configs, specs
# and run folders, `perforated_monai.distributed.start` in configs.
MODULES = {
    "distributed": "training.distributed",
    "nets": "networks.catalogue",
}


def load(package: str, name: str) -> object:
    """The object or module behind a public name.

    Raises:
        AttributeError: for a name that is not public.
    """
    if name in NAMES:
        return getattr(importlib.import_module(f"{package}.{NAMES[name]}"), name)
    if name in MODULES:
        return importlib.import_module(f"{package}.{MODULES[name]}")
    msg = f"module {package!r} has no attribute {name!r}"
    raise AttributeError(msg)


def register_modules(package: str) -> None:
    """Let ``import perforated_monai.nets`` work: a module that loads the real one when asked."""
    for name, place in MODULES.items():
        sys.modules[f"{package}.{name}"] = _Lazy(f"{package}.{name}", f"{package}.{place}")


class _Lazy(ModuleType):
    def __init__(self, name: str, place: str) -> None:
        super().__init__(name, f"The public name of {place}.")
        self.__dict__["_place"] = place

    def __getattr__(self, name: str) -> object:
        # `inspect` asks every module for its __file__, also while torch is half imported.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__dict__["_place"]), name)
