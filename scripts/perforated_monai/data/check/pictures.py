"""Small pictures for the report, without a plotting library: histograms as SVG, slices as PNG."""

from __future__ import annotations

import base64
import html
import struct
import zlib

import numpy as np

# Okabe and Ito's colours, which colour-blind readers tell apart (jfly.uni-koeln.de/color).
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
SCALE = 3  # screen pixels a voxel, so that outlines are thinner than voxels
LARGEST = 128  # voxels a side that are drawn
WIDTH, HEIGHT, BINS = 330, 120, 24


def slice_png(image: np.ndarray, label: np.ndarray | None) -> str:
    """A slice in grey with the outline of each label value, as base64 PNG.

    Args:
        image: `(X, Y)`, x to the right and y upwards.
        label: `(X, Y)` whole numbers; None, or another shape, draws no outline.
    """
    step = max(1, -(-max(image.shape) // LARGEST))
    grey = _upright(_window(image[::step, ::step]))
    pixels = np.repeat(grey[..., None], 3, axis=2)
    if label is not None and label.shape == image.shape:
        values = _upright(np.nan_to_num(label[::step, ::step]).astype(np.int64))
        for value in np.unique(values[values > 0]):
            pixels[_edge(values == value)] = COLOURS[(int(value) - 1) % len(COLOURS)]
    return base64.b64encode(_png(pixels)).decode()


def histogram_svg(values: np.ndarray, title: str) -> str:
    """Counts of values in bins, with the range below the axis."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    counts = np.histogram(values, _edges(values, low, high))[0]
    most, bar = max(1, int(counts.max())), WIDTH / len(counts)
    bars = "".join(
        f'<rect x="{k * bar:.1f}" y="{HEIGHT - 22 - n / most * 74:.1f}" width="{bar - 1:.1f}" '
        f'height="{n / most * 74:.1f}"><title>{n}</title></rect>'
        for k, n in enumerate(counts.tolist())
        if n
    )
    base = f'<line x1="0" y1="{HEIGHT - 22}" x2="{WIDTH}" y2="{HEIGHT - 22}"/>'
    ends = f'<text x="0" y="{HEIGHT - 6}">{low:.4g}</text>'
    if low < high:
        ends += f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{high:.4g}</text>'
    heading = f'<text x="0" y="14">{html.escape(title)}; tallest bar {most}</text>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{heading}{bars}{base}{ends}</svg>'


def _edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges of the bins: one a whole number where that is few enough."""
    if np.issubdtype(values.dtype, np.integer) and low < high < low + 2 * BINS:
        return np.arange(low, high + 2) - 0.5
    half = max((high - low) / 2, abs(low) * 1e-3, 1e-6)
    middle, bins = (low + high) / 2, BINS if low < high else BINS - 1  # odd: a bar in the middle
    return np.linspace(middle - half, middle + half, bins + 1)


def _window(image: np.ndarray) -> np.ndarray:
    """0 to 255 between the 1st and the 99th percentile."""
    finite = image[np.isfinite(image)].astype(np.float64)
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0, 1)
    scaled = (np.nan_to_num(image.astype(np.float64), nan=low) - low) / max(high - low, 1e-12)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _upright(plane: np.ndarray) -> np.ndarray:
    """`(X, Y)` -> rows from top to bottom, `SCALE` pixels a voxel."""
    return np.flipud(plane.T).repeat(SCALE, 0).repeat(SCALE, 1)


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _png(pixels: np.ndarray) -> bytes:
    """`(H, W, 3)` uint8 -> an RGB file (PNG specification, ISO/IEC 15948)."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
