"""One PNG a case: three planes through the structure, with outlines, directions and a scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...files import atomic
from .planes import COLOURS, PLANES, Plane, centre_of, cut, scale_bar, spacing_of, turned

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
    masks = [turned(mask, affine) for mask in _masks(labels, list(names))]
    image, spacing = turned(np.asarray(image, np.float32), affine), spacing_of(affine)
    centre = centre_of(np.logical_or.reduce(masks))
    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    low, high = np.percentile(image, (1, 99.5))
    for plane, place in zip(PLANES, _places(np.array(image.shape) * spacing), strict=True):
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


def _places(extent: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Where the planes lie in the figure, all at one scale; ``extent`` (x, y, z) in mm."""
    wide = [extent[plane.across] for plane in PLANES]
    high = [extent[plane.up] for plane in PLANES]
    room = _HEIGHT - _TOP - _BOTTOM
    scale = min((_WIDTH - 4 * _MARGIN) / sum(wide), room / max(high))
    left, places = float(_MARGIN), []
    for w, h in zip(wide, high, strict=True):
        bottom = _BOTTOM + (room - h * scale) / 2
        places.append((left / _WIDTH, bottom / _HEIGHT, w * scale / _WIDTH, h * scale / _HEIGHT))
        left += w * scale + _MARGIN
    return places


def _draw_plane(axes, plane: Plane, image, masks, spacing, centre, window) -> None:
    across, up = plane.across, plane.up
    width, height = (image.shape[a] * spacing[a] for a in (across, up))
    box = (0, width, 0, height)
    axes.imshow(
        cut(image, plane, centre),
        **{"cmap": "gray", "origin": "lower", "extent": box, "vmin": window[0], "vmax": window[1]},
    )
    for k, mask in enumerate(masks):
        flat = cut(mask, plane, centre)
        if flat.any():
            padded = np.pad(flat.astype(float), 1)
            x = (np.arange(padded.shape[1]) - 0.5) * spacing[across]
            y = (np.arange(padded.shape[0]) - 0.5) * spacing[up]
            colour = COLOURS[k % len(COLOURS)]
            axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=1.4)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    style = {"color": "white", "fontsize": 11, "transform": axes.transAxes, "va": "center"}
    style["path_effects"] = _outlined()
    axes.text(0.02, 0.5, plane.horizontal[0], ha="left", **style)
    axes.text(0.98, 0.5, plane.horizontal[1], ha="right", **style)
    axes.text(0.5, 0.03, plane.vertical[0], ha="center", **style)
    axes.text(0.5, 0.97, plane.vertical[1], ha="center", **style)
    _draw_scale(axes, width, height)
    axes.set_title(plane.name, color="white", fontsize=10)


def _draw_scale(axes, width: float, height: float) -> None:
    """A bar of 1, 2, 5, 10, ... mm, about a quarter of the plane."""
    length = scale_bar(width)
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
        figure.text(x, 0.05, f"— {text}", color=COLOURS[k % len(COLOURS)], fontsize=10)
        x += 0.03 + 0.009 * len(text)
    for k, warning in enumerate(warnings):
        figure.text(0.02, 0.91 - 0.04 * k, warning[:150], color="#ff5555", fontsize=9, va="center")
