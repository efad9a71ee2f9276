"""What a scan may be: its memory beside what is free, its size beside that of training volumes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

# Largest tensors of a UNet's top level that live at once: input and output of a convolution, its
# normalised copy, and the skip connection.
_LIVE_TENSORS = 4


def free_memory() -> int | None:
    """Bytes that can be taken without swapping; the container's limit counts. None if unknown."""
    free = _meminfo()
    limit, used = (_number(f"/sys/fs/cgroup/memory.{n}") for n in ("max", "current"))
    if limit is not None and used is not None:
        free = min(free, limit - used) if free is not None else limit - used
    return free


def activation_bytes(width: int) -> int:
    """Rough float32 bytes of a network's activations a voxel, from its first layer's channels."""
    return 4 * _LIVE_TENSORS * width


def as_text(count: float) -> str:
    """Bytes as ``1.4 GiB`` or ``350 MiB``."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _meminfo() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


# -- like the training volumes -----------------------------------------------------------------

TOLERANCE = 1.5


def measure_ranges(files: Iterable[str | Path]) -> dict[str, Any]:
    """Lowest and highest extent and spacing, in mm, of volumes; the value of ``training_ranges``.

    No command writes it, for only the bundle's author knows which volumes the network was trained
    on: call this on them and put the result under ``segment::training_ranges`` in metadata.json.

    Axes are the volume's own, named by the closest patient axis: left-right, posterior-anterior,
    inferior-superior. ``tolerance`` is the factor by which a volume may lie beyond: augmentation
    scales by 15 %, and patients differ more than a few hundred of them.
    """
    sizes, spacings = [], []
    for file in files:
        image: Any = nib.load(file)
        size, spacing = extent(image.shape[:3], image.affine)
        sizes.append(size)
        spacings.append(spacing)
    return {
        "axes": ["left-right", "posterior-anterior", "inferior-superior"],
        "cases": len(sizes),
        "size_mm": _span(sizes),
        "spacing_mm": _span(spacings),
        "tolerance": TOLERANCE,
        "rule": "accepted from lowest / tolerance to highest × tolerance on each axis",
    }


def outside_ranges(
    shape: Sequence[int], affine: np.ndarray, ranges: dict[str, Any] | None
) -> str | None:
    """Why a volume ``shape`` (X, Y, Z) is unlike the training volumes; None when it is not."""
    if not ranges:
        return None
    factor = float(ranges.get("tolerance", TOLERANCE))
    measured = dict(zip(("size_mm", "spacing_mm"), extent(shape, affine), strict=True))
    for key, what in (("spacing_mm", "voxel size"), ("size_mm", "extent")):
        for axis, value, (low, high) in zip(
            ranges["axes"], measured[key], ranges.get(key, []), strict=False
        ):
            if not low / factor * 0.999 <= value <= high * factor * 1.001:
                trained = f"{low:g}" if low == high else f"{low:g} to {high:g}"
                told = (
                    f"its {axis} {what} is {value:.4g} mm; the network was trained on {trained} mm "
                    f"and accepts {low / factor:.3g} to {high * factor:.3g}"
                )
                if low / factor <= value * 1000 <= high * factor:
                    told += ". Its sizes look like metres: the unit is wrong"
                return told
    return None


def extent(shape: Sequence[int], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extent and voxel size in mm along the axes closest to x, y and z."""
    axes = nib.io_orientation(affine)[:, 0].astype(int)
    spacing = np.empty(3)
    voxels = np.empty(3)
    spacing[axes] = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    voxels[axes] = np.asarray(shape[:3])
    return spacing * voxels, spacing


def _span(values: list[np.ndarray]) -> list[list[float]]:
    table = np.array(values)
    lows, highs = table.min(0), table.max(0)
    return [[round(float(a), 3), round(float(b), 3)] for a, b in zip(lows, highs, strict=True)]
