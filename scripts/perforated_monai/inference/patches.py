"""Patches of real or phantom volumes, through a bundle's own preprocessing."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data.utils import dense_patch_slices
from monai.transforms import SpatialPad
from torch import Tensor, nn

from ..data.lists import find_volumes
from ..data.phantoms import make_phantoms
from ..errors import UserError

BATCH = 2  # one sample alone takes PyTorch's slow convolution path on a CPU
_PHANTOMS = {1: "hippocampus", 4: "tumour"}  # channels: kind


@dataclass(frozen=True)
class Patches:
    """Batches ``(2, C, *space)`` and the words that say where they come from."""

    batches: list[Tensor]
    source: str


def load_patches(
    bundle: str | Path,
    inference: dict[str, Any],
    shape: tuple[int, ...],
    volumes: str | Path | None = None,
    limit: int = 8,
) -> Patches:
    """Patches of the bundle's window size.

    Args:
        bundle: for ``@bundle_root`` in the preprocessing.
        inference: content of ``inference.json``; its ``preprocessing`` prepares each volume.
        shape: ``(C, *space)`` of a patch; smaller volumes are padded, larger ones cut.
        volumes: folder of ``.nii`` or ``.nii.gz`` volumes; seeded phantoms when not given, and
            smooth noise for a network that no phantom fits (2D, or other channels).
        limit: patches in all; two of each volume as long as there are that many volumes.

    Raises:
        UserError: for a folder without volumes, or volumes of another number of channels.
    """
    if volumes is None and (len(shape) != 4 or shape[0] not in _PHANTOMS):
        return noise_patches(shape, limit)
    if "preprocessing" not in inference:
        msg = f"{bundle}: inference.json has no preprocessing; volumes cannot be read without it."
        raise UserError(msg)
    with tempfile.TemporaryDirectory() as folder:
        if volumes is None:
            make_phantoms(
                Path(folder) / "p", cases=limit // 2, channels=shape[0], kind=_PHANTOMS[shape[0]]
            )
        files = find_volumes(Path(folder) / "p" if volumes is None else volumes)
        files = files[: max(1, limit // 2)]
        each = -(-limit // len(files))
        patches = [p for f in files for p in _cut(_read(bundle, inference, f, shape), shape, each)]
    kind = "phantom" if volumes is None else "real"
    return Patches(_batches(patches), f"{len(patches)} patches of {len(files)} {kind} volumes")


def cut_batches(images: Sequence[Tensor], shape: tuple[int, ...], limit: int) -> list[Tensor]:
    """Batches ``(2, C, *space)`` of windows spread over images ``(C, ...)``, ``limit`` in all.

    Args:
        images: smaller ones are padded.
        shape: ``(C, *space)`` of a window.
        limit: of several images each gives the same share.
    """
    chosen = images[: max(1, limit // 2)]
    each = -(-limit // len(chosen))
    return _batches([p for image in chosen for p in _cut(image, shape, each)][:limit])


def noise_patches(shape: tuple[int, ...], limit: int = 8) -> Patches:
    """Patches ``(C, *space)`` of smooth noise, for a network that no phantom fits."""
    return Patches(_batches(smooth_noise(shape, limit)), f"{limit} patches of smooth noise")


def smooth_noise(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> list[Tensor]:
    """Smooth random patches ``(1, C, *space)`` with mean 0 and standard deviation 1."""
    generator = torch.Generator().manual_seed(seed)
    pool = {2: nn.functional.avg_pool1d, 3: nn.functional.avg_pool2d, 4: nn.functional.avg_pool3d}
    patches = []
    for _ in range(count):
        noise = torch.randn((1, *shape), generator=generator)
        smooth = pool[len(shape)](noise, 5, stride=1, padding=2)
        mixed = smooth / smooth.std() + 0.3 * noise
        patches.append((mixed - mixed.mean()) / mixed.std())
    return patches


def _read(
    bundle: str | Path, inference: dict[str, Any], volume: dict[str, str], shape: tuple[int, ...]
) -> Tensor:
    parser = ConfigParser(copy.deepcopy(inference))
    parser["bundle_root"] = str(bundle)
    image = parser.get_parsed_content("preprocessing")(dict(volume))["image"]
    image = torch.as_tensor(np.asarray(image), dtype=torch.float32)
    if image.dim() != len(shape) or image.size(0) != shape[0]:
        msg = (
            f"{Path(volume['image']).name} gives an image of shape {tuple(image.shape)}; the "
            f"network takes {shape[0]} channels and {len(shape) - 1} axes. Give others."
        )
        raise UserError(msg)
    return image


def _cut(image: Tensor, shape: tuple[int, ...], count: int) -> list[Tensor]:
    """Up to ``count`` windows of an image, spread over it, as ``(1, C, *space)``."""
    padded = torch.as_tensor(SpatialPad(shape[1:])(image)).as_subclass(Tensor)
    slices = dense_patch_slices(padded.shape[1:], shape[1:], shape[1:])
    chosen = np.linspace(0, len(slices) - 1, min(count, len(slices))).round().astype(int)
    return [padded[(slice(None), *slices[i])][None].contiguous() for i in chosen]


def _batches(patches: list[Tensor]) -> list[Tensor]:
    if len(patches) % BATCH:
        patches = [*patches, patches[-1]]
    return [torch.cat(patches[i : i + BATCH]) for i in range(0, len(patches), BATCH)]
