"""What runs the network: torch on the device, or another of ``inference.engines``."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ...networks.agreement import LEAST_AGREEMENT, compare, outputs
from ..by_rule import LOADERS, candidates
from ..engines import ENGINES, load_engines, require_engine
from ..formats import Source, is_fixed
from ..quiet import without_warnings
from .infer import Predictor
from .pipeline import InferenceBundle, default_device

AUTO = "auto"
# What a named engine must reach on the first scans; below, a model in the bundle is another one's.
_LEAST_OF_NAMED = 0.99
_EXAMPLE = 64  # voxels of an axis where windows are as large as the volume


@dataclass(frozen=True)
class Loaded:
    """An engine that is ready; ``reason`` says how it compares with float32 torch."""

    predict: Predictor
    name: str
    device: torch.device
    reason: str = ""


def engine_device(name: str, device: str | torch.device | None) -> torch.device:
    """Where windows lie: engines but torch take them, and give logits, on the CPU.

    Raises:
        UserError: for an unknown engine or device, a missing package, or a GPU that is missing or
            that the engine cannot use.
    """
    if name not in (AUTO, *ENGINES):
        msg = f"engine must be {AUTO} or one of {', '.join(ENGINES)}; got {name!r}."
        raise UserError(msg)
    place = _device(device)
    if name not in (AUTO, "torch") and device is not None and place.type != "cpu":
        msg = f"engine {name} runs on the CPU; got --device {device}. Leave --device out."
        raise UserError(msg)
    if name != AUTO:
        require_engine(name)
    return place if name in (AUTO, "torch") else torch.device("cpu")


def on_device(bundle: InferenceBundle, device: torch.device) -> Predictor:
    """Engine torch; in mixed precision on a GPU where the bundle's evaluator asks for it."""
    network = bundle.network
    if device.type != "cpu":
        network = copy.deepcopy(network).to(device)

    def run(windows: Tensor) -> Tensor:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=bundle.amp and device.type == "cuda"),
        ):
            return network(windows)

    return run


def needs_no_check(bundle: InferenceBundle, name: str, device: torch.device) -> bool:
    """Whether an engine is float32 torch itself: by name, or because ``auto`` has no other."""
    return name == "torch" or (name == AUTO and _candidates(bundle, device) == ["torch"])


def load_engine(
    bundle: InferenceBundle, name: str, device: torch.device, batches: Sequence[Tensor], words: str
) -> Loaded:
    """Load a named engine, or the one that suits the network, and compare it with float32 torch.

    Args:
        bundle: loaded bundle.
        name: a key of ``ENGINES``, or ``auto``: the first of ``by_rule.candidates`` that takes the
            network and gives 99.99 % equal labels.
        device: of ``engine_device``.
        batches: windows ``(B, C, *roi)`` of the first scans.
        words: that say what they are.

    Raises:
        UserError: for a named engine that does not take the network or agrees on less than 99 %.
    """
    if needs_no_check(bundle, name, device):
        return Loaded(on_device(bundle, device), "torch", device)
    if name != AUTO:
        return _named(bundle, name, list(batches), words)
    return _by_rule(bundle, list(batches), words)


def mirrored(predict: Predictor, axes: tuple[int, ...]) -> Predictor:
    """Mean of the logits over every combination of mirrored spatial axes (0 is x)."""
    flips = [
        [axis + 2 for axis, on in zip(axes, chosen, strict=True) if on]
        for chosen in itertools.product((False, True), repeat=len(axes))
    ]

    def run(windows: Tensor) -> Tensor:
        total = predict(windows)
        for dims in flips[1:]:
            total = total + predict(windows.flip(dims)).flip(dims)
        return total / len(flips)

    return run


def _named(bundle: InferenceBundle, name: str, batches: list[Tensor], words: str) -> Loaded:
    source = _source(bundle)
    run = _run(source, name)
    expected = outputs(source.network, batches)
    agreement = compare(expected, outputs(run, batches), bundle.exclusive)["label_agreement"]
    if agreement < _LEAST_OF_NAMED:
        msg = (
            f"engine {name} must give {_LEAST_OF_NAMED:.1%} of torch's labels; on {words} it gives "
            f"{agreement:.2%}. Use --engine torch, or auto."
        )
        raise UserError(msg)
    reason = f"{name}: {agreement:.3%} equal labels with torch float32 on {words}."
    return Loaded(run, name, torch.device("cpu"), reason)


def _by_rule(bundle: InferenceBundle, batches: list[Tensor], words: str) -> Loaded:
    source, cpu = _source(bundle), torch.device("cpu")
    expected = outputs(source.network, batches)
    passed_over = ""
    for name in _candidates(bundle, cpu)[:-1]:
        try:
            with without_warnings(), torch.no_grad():
                run = LOADERS[name](source)
            agreement = compare(expected, outputs(run, batches), bundle.exclusive)
        except Exception as error:  # every converter has its own family of errors
            passed_over += f" {name} does not take this network ({type(error).__name__})."
            continue
        equal = agreement["label_agreement"]
        if equal >= LEAST_AGREEMENT:
            reason = f"{name}: {equal:.3%} equal labels with torch float32 on {words}."
            return Loaded(run, name, cpu, reason + passed_over)
        passed_over += f" {name} gave {equal:.3%} of torch's labels on {words}."
    return Loaded(on_device(bundle, cpu), "torch", cpu, f"torch:{passed_over}")


def _candidates(bundle: InferenceBundle, device: torch.device) -> list[str]:
    windows = bundle.windows()
    one_size = windows is not None and min(windows.roi_size) > 0
    return candidates(bundle.network, device.type, one_size)


def _run(source: Source, name: str) -> Predictor:
    try:
        return load_engines(source, [name], required=True)[name]
    except UserError:
        raise
    except Exception as error:  # every converter has its own family of errors
        kind, text = type(error).__name__, " ".join(str(error).split())[:200]
        network = type(source.network).__name__
        msg = f"engine {name} does not take this {network} ({kind}: {text}). Use --engine torch."
        raise UserError(msg) from error


def _source(bundle: InferenceBundle) -> Source:
    network = bundle.network
    windows = bundle.windows()
    sizes: Sequence[Any] = windows.roi_size if windows else (0, 0, 0)
    shape = (bundle.channels, *[int(s) if s > 0 else _EXAMPLE for s in sizes])
    kinds = [type(part) for part in bundle.parts]
    fixed = any(is_fixed(f"{k.__module__}.{k.__name__}") or is_fixed(k.__name__) for k in kinds)
    # The models beside the first one's weights are not an ensemble's.
    return Source(bundle.folder, network, shape, fixed, written=len(kinds) == 1)


def _device(device: str | torch.device | None) -> torch.device:
    try:
        place = torch.device(device) if device is not None else default_device()
    except RuntimeError as error:
        msg = f"device must be cpu, cuda or cuda:N; got {device!r} ({str(error).splitlines()[0]})."
        raise UserError(msg) from None
    if place.type == "cuda" and not torch.cuda.is_available():
        msg = f"device {device!r} needs a GPU; torch finds none. Use --device cpu."
        raise UserError(msg)
    try:  # the one question that every build of torch answers
        torch.empty(1, device=place).add(1).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        msg = f"device {device!r} cannot be used here ({reason}). Use --device cpu."
        raise UserError(msg) from None
    return place
