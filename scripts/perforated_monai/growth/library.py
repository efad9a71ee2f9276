"""perforatedai itself: its import, its settings, its files, and the dendrites it is told to make.

Each workaround names the behaviour of perforatedai 3.2.9 that it answers; the exact pin in
pyproject.toml and ``tests/growth/test_tracker.py`` say when one of them can go.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..dendrites.branches import Dendrite, draw_anew
from ..dendrites.config import DendriteConfig
from ..dendrites.kind import Kind
from ..dendrites.kinds.apical import ApicalDendrite
from ..errors import UserError
from .sandbox import TrackerError, guard, keep_matplotlib_backend

RELEASE = "3.2.9"  # another release may behave otherwise without saying so


@contextlib.contextmanager
def forward_settings(config: DendriteConfig) -> Iterator[None]:
    """Settings under which a grown network gives its outputs: the library reads them from a global.

    Inside, any grown network in memory runs with ``config.activation``; the process's own settings
    come back afterwards.
    """
    gpa, _ = import_library()
    before = gpa.pc
    with guard(verbose=False):
        gpa.pc = gpa.PAIConfig()
    gpa.pc.set_pai_forward_function(activation_function(config.activation))
    gpa.pc.set_perforated_backpropagation(False)
    try:
        yield
    finally:
        gpa.pc = before


def import_library() -> tuple[Any, Any]:
    """Import perforatedai without letting it change plotting, or say what is needed."""
    try:
        installed = importlib.metadata.version("perforatedai")
        if installed != RELEASE:
            raise ImportError(f"here is {installed}")
        with guard(verbose=False), keep_matplotlib_backend():
            from perforatedai import globals_perforatedai as gpa
            from perforatedai import utils_perforatedai as upa
    except ImportError as error:
        msg = (
            f"Growing dendrites needs perforatedai {RELEASE} ({error}): pip install "
            "'perforated-monai[train]'. It has wheels for CPython 3.10-3.12 on Linux x86-64, macOS "
            f"and Windows; this is Python {sys.version_info[0]}.{sys.version_info[1]} on "
            f"{sys.platform}. Plain training and exported bundles do not need it."
        )
        raise UserError(msg) from None
    return gpa, upa


def apply_settings(pc: Any, config: DendriteConfig, wrapped: list[str], network: nn.Module) -> None:
    """Set every setting that matters and read it back: unknown names are accepted and ignored."""
    device = next(network.parameters()).device
    settings = {
        "device": device,
        "use_cuda": device.type == "cuda",
        "d_type": next(network.parameters()).dtype,
        "perforated_backpropagation": False,
        "configuration_confirmed": True,
        "unwrapped_modules_confirmed": True,
        "checked_skipped_modules": False,
        "testing_dendrite_capacity": False,
        "switch_mode": pc.DOING_HISTORY if config.switch == "history" else pc.DOING_FIXED_SWITCH,
        "n_epochs_to_switch": config.patience,
        "fixed_switch_num": config.patience,
        "first_fixed_switch_num": -1,
        "initial_history_after_switches": 0,
        "history_lookback": 1,
        "max_dendrites": config.max_dendrites,
        "max_dendrite_tries": config.tries,
        "improvement_threshold_raw": config.improvement_threshold_raw,
        "candidate_weight_initialization_multiplier": config.scale,
        "candidate_weight_init_by_main": False,
        "pai_forward_function": activation_function(config.activation),
        "find_best_lr": False,  # tuning that a plain run would not get
        "dont_give_up_unless_learning_rate_lowered": False,
        "retain_all_dendrites": False,
        "reset_best_score_on_switch": False,
        "global_candidates": 1,
        "output_dimensions": [-1, 0, -1, -1, -1],
        "module_names_to_perforate": [],
        "modules_to_perforate": [],
        "module_ids_to_perforate": [f".{name}" for name in wrapped],
        "module_ids_to_track": [],
        "module_names_to_track": [],
        "using_safe_tensors": True,
        "strict_loading": True,
        "test_saves": False,  # latest, beforeSwitch_*: our checkpoints hold more
        "pai_saves": False,
        "dashboard_events_enabled": False,
        "silent": not config.verbose,
        "verbose": False,
    }
    for name, value in settings.items():
        getattr(pc, f"set_{name}")(value)
        held = getattr(pc, f"_{name}", None)
        if held is not value and held != value:
            msg = f"perforatedai did not take {name}={value!r}; it holds {held!r}."
            raise TrackerError(msg)
    pc.set_improvement_threshold(list(config.improvement_threshold))


def verify_thresholds(pc: Any, config: DendriteConfig) -> None:
    # Readable only once a tracker exists: the getter indexes the list by the dendrites added.
    if pc.get_improvement_threshold() != config.improvement_threshold[0]:
        msg = f"perforatedai did not take improvement_threshold={config.improvement_threshold}."
        raise TrackerError(msg)


def activation_function(name: str) -> Any:
    """The torch function behind an activation's name."""
    return {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "identity": _identity,
    }[name]


def _identity(x: Tensor) -> Tensor:
    return x


def dendrite_maker(kind: Kind, config: DendriteConfig) -> Any:
    """The library's hook for making a dendrite of a kind from its layer.

    The library calls it twice for each dendrite: first with the template, then with the product,
    whose weights it has overwritten by N(0, scale²). It uses what the second call returns.
    """

    def make(template: nn.Module) -> nn.Module:
        again = isinstance(template, (Dendrite, ApicalDendrite))
        dendrite = copy.deepcopy(template) if again else kind.make(template)
        for parameter in dendrite.parameters():
            parameter.requires_grad_(True)
        if config.initialisation == "layer":
            with torch.no_grad():
                draw_anew(dendrite)
                for parameter in dendrite.parameters():
                    parameter.mul_(config.scale)
        return dendrite

    return make


def refuse_stray_rank() -> None:
    rank = os.environ.get("RANK", "0")
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if rank != "0" and not distributed:
        msg = (
            f"RANK={rank} is set but no process group runs: the tracker would save nothing. "
            "Unset RANK, or start with torchrun and the multi_gpu_train overlay."
        )
        raise UserError(msg)


def within_reach(network: nn.Module, kinds: dict[str, Kind]) -> dict[str, Kind]:
    """The layers that the library finds: it takes a digit in a name for an index.

    Below a ``ModuleDict`` with such a key (the stems of DiNTS) it finds none; these layers do not
    grow, with a warning.

    Raises:
        UserError: when none is left.
    """
    dicts = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.ModuleDict)]
    starts = tuple(f"{n}.{key}." for n, m in dicts for key in m if key.isdigit())
    left = {name: kind for name, kind in kinds.items() if not f"{name}.".startswith(starts)}
    out = [name for name in kinds if name not in left]
    said = f"{len(out)} layers below a ModuleDict with numbers for keys cannot grow: {out[:3]}"
    if out and not left:
        raise UserError(f"{said}. Choose other layers with layer_names.")
    if out:
        warnings.warn(f"{said}{' and more' if len(out) > 3 else ''}.", stacklevel=3)
    return left


def remove_all_but(folder: Path, keep: str) -> None:
    """Take the library's files out of its folder, but one."""
    for file in folder.glob("*"):
        if file.is_file() and file.name != keep:
            file.unlink()
