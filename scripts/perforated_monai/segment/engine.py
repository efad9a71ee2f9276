"""What runs the network: name -> a function from a batch of windows to their logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UserError
from .bundle import Bundle

Predictor = Callable[[Tensor], Tensor]
Engine = Callable[[Bundle, torch.device], Predictor]


def make_predictor(
    bundle: Bundle, engine: str = "torch", device: torch.device | None = None, tta: bool = False
) -> Predictor:
    """Load a bundle's network: ``(B, C, *roi)`` on ``device`` -> logits ``(B, K, *roi)``.

    Args:
        bundle: loaded bundle.
        engine: a key of ``ENGINES``.
        device: where it runs; the CPU when not given.
        tta: mean of the logits of the windows and of their mirror images, along the axes that
            ``mirror_axes`` of the bundle's metadata names.

    Raises:
        UserError: for an unknown engine, a missing file, or ``tta`` without mirror axes.
    """
    if engine not in ENGINES:
        msg = f"engine must be one of {', '.join(ENGINES)}; got {engine!r}."
        raise UserError(msg)
    predict = ENGINES[engine](bundle, device or torch.device("cpu"))
    if tta and not bundle.mirror_axes:
        msg = (
            f"--tta needs segment.mirror_axes in metadata.json of {bundle.folder.name}: it names "
            "the axes along which training mirrored."
        )
        raise UserError(msg)
    return mirrored(predict, bundle.mirror_axes) if tta else predict


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


def _torch(bundle: Bundle, device: torch.device) -> Predictor:
    return _on_device(bundle.network().to(device), bundle, device)


def _torchscript(bundle: Bundle, device: torch.device) -> Predictor:
    path = bundle.folder / "models" / "model.ts"
    if not path.is_file():
        msg = f"engine torchscript needs models/model.ts in {bundle.folder.name}: export it first."
        raise UserError(msg)
    return _on_device(torch.jit.load(str(path), map_location=device).eval(), bundle, device)


def _on_device(network: nn.Module, bundle: Bundle, device: torch.device) -> Predictor:
    """In mixed precision on a GPU where the bundle's evaluator asks for it."""

    def run(windows: Tensor) -> Tensor:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=bundle.amp and device.type == "cuda"),
        ):
            return network(windows)

    return run


ENGINES: dict[str, Engine] = {"torch": _torch, "torchscript": _torchscript}
