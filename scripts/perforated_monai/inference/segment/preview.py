"""One PNG a case: three planes through the structure, with outlines, directions and a scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ...errors import UserError
from ...files import atomic

# Plane, its horizontal and vertical patient axes (x, y, z), and the letters at their low and high
# ends; seen from the patient's own side (left is left).
_PLANES = (
    ("sagittal", 0, (1, 2), "PA", "IS"),
    ("coronal", 1, (0, 2), "LR", "IS"),
    ("axial", 2, (0, 1), "LR", "PA"),
)
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
_WIDTH, _HEIGHT = 1100, 460  # pixels
_MARGIN, _TOP, _BOTTOM = 22, 65, 55


def write_preview(
    path: Path,
    image: np.ndarray,
    labels: np.ndarray,
    affine: np.ndarray,
    names: dict[int, str],
    title: str,
    warnings: Sequence[str] = (),
) -> None:
    """Draw sagittal, coronal and axial planes through the centre of all structures.

    Args:
        path: PNG to write, atomically; its folder is made.
        image: ``(X, Y, Z)`` grey values.
        labels: ``(X, Y, Z)``, or ``(X, Y, Z, K)`` of 0 and 1.
        affine: voxel to mm, RAS.
        names: label value (or channel) -> name.
        title: drawn above, with warnings in red.

    Raises:
        UserError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        msg = "--preview needs matplotlib: pip install 'perforated-monai[study]'."
        raise UserError(msg) from None
    masks = _masks(labels, list(names))
    image, masks, spacing = _reoriented(image, masks, affine)
    centre = _centre(masks)
    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    low, high = np.percentile(image, (1, 99.5))
    for plane, place in zip(_PLANES, _places(np.array(image.shape) * spacing), strict=True):
        axes = figure.add_axes(place)
        _draw_plane(axes, plane, image, masks, spacing, centre, (float(low), float(high)))
    _draw_text(figure, title, names, masks, warnings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        # Fixed metadata: the same case gives the same bytes, and no name of a program or file.
        figure.savefig(temporary, format="png", facecolor="black", metadata={"Software": None})


def _masks(labels: np.ndarray, values: list[int]) -> list[np.ndarray]:
    if labels.ndim == 4:
        return [labels[..., k] > 0 for k in range(labels.shape[-1])]
    return [labels == value for value in values]


def _reoriented(
    image: np.ndarray, masks: list[np.ndarray], affine: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Axes turned and flipped to the closest of x (right), y (anterior), z (superior)."""
    turn = nib.io_orientation(affine)
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
    turned = [nib.apply_orientation(m, turn) for m in masks]
    return nib.apply_orientation(np.asarray(image, np.float32), turn), turned, spacing


def _centre(masks: list[np.ndarray]) -> list[int]:
    """Voxel of the structures nearest to their centre of mass; the middle without any."""
    where = np.argwhere(np.logical_or.reduce(masks))
    if not len(where):
        return [n // 2 for n in masks[0].shape]
    nearest = np.argmin(((where - where.mean(0)) ** 2).sum(1))
    return [int(v) for v in where[nearest]]


def _places(extent: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Where the planes lie in the figure, all at one scale; ``extent`` (x, y, z) in mm."""
    wide = [extent[across] for _, _, (across, _), _, _ in _PLANES]
    high = [extent[up] for _, _, (_, up), _, _ in _PLANES]
    room = _HEIGHT - _TOP - _BOTTOM
    scale = min((_WIDTH - 4 * _MARGIN) / sum(wide), room / max(high))
    left, places = float(_MARGIN), []
    for w, h in zip(wide, high, strict=True):
        bottom = _BOTTOM + (room - h * scale) / 2
        places.append((left / _WIDTH, bottom / _HEIGHT, w * scale / _WIDTH, h * scale / _HEIGHT))
        left += w * scale + _MARGIN
    return places


def _draw_plane(axes, plane, image, masks, spacing, centre, window) -> None:
    name, axis, (across, up), horizontal, vertical = plane
    cut = [slice(None)] * 3
    cut[axis] = centre[axis]
    width, height = (image.shape[a] * spacing[a] for a in (across, up))
    box = (0, width, 0, height)
    axes.imshow(
        image[tuple(cut)].T, cmap="gray", origin="lower", extent=box, vmin=window[0], vmax=window[1]
    )
    for k, mask in enumerate(masks):
        flat = mask[tuple(cut)].T
        if flat.any():
            padded = np.pad(flat.astype(float), 1)
            x = (np.arange(padded.shape[1]) - 0.5) * spacing[across]
            y = (np.arange(padded.shape[0]) - 0.5) * spacing[up]
            colour = _COLOURS[k % len(_COLOURS)]
            axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=1.4)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    style = {"color": "white", "fontsize": 11, "transform": axes.transAxes, "va": "center"}
    style["path_effects"] = _outlined()
    axes.text(0.02, 0.5, horizontal[0], ha="left", **style)
    axes.text(0.98, 0.5, horizontal[1], ha="right", **style)
    axes.text(0.5, 0.03, vertical[0], ha="center", **style)
    axes.text(0.5, 0.97, vertical[1], ha="center", **style)
    _draw_scale(axes, width, height)
    axes.set_title(name, color="white", fontsize=10)


def _draw_scale(axes, width: float, height: float) -> None:
    """A bar of 1, 2, 5, 10, ... mm, about a quarter of the plane."""
    steps = [base * 10**k for k in range(4) for base in (1, 2, 5)]
    length = max((s for s in steps if s <= width / 3), default=1)
    x, y = width * 0.04, height * 0.05
    axes.plot([x, x + length], [y, y], color="white", linewidth=2, solid_capstyle="butt")
    axes.text(
        x, y + height * 0.02, f"{length} mm", color="white", fontsize=9, path_effects=_outlined()
    )


def _outlined() -> list:
    """White letters stay readable on white matter."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="black")]


def _draw_text(figure, title, names, masks, warnings) -> None:
    figure.text(0.02, 0.95, title[:100], color="white", fontsize=11, va="center", parse_math=False)
    x = 0.02
    for k, ((_, name), mask) in enumerate(zip(names.items(), masks, strict=False)):
        text = name if mask.any() else f"{name} (none)"
        figure.text(x, 0.05, f"— {text}", color=_COLOURS[k % len(_COLOURS)], fontsize=10)
        x += 0.03 + 0.009 * len(text)
    for k, warning in enumerate(warnings):
        figure.text(0.02, 0.91 - 0.04 * k, warning[:150], color="#ff5555", fontsize=9, va="center")
