"""Rules on one volume that its header, or the attempt to read it, decides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...rules import WARNING, Broken, Rule, rule
from .facts import Facts
from .volume import MAX_VOXELS, Volume

TOLERANCE = 1e-3  # relative; far above float32 rounding of NIfTI headers
FARTHEST = 1e5  # mm; a table moves by metres, and beyond 100 m float32 rounds to hundredths of a mm
SHEAR = 0.5  # degrees; rounding of headers gives far less
UNITS = {1: "metres", 3: "micrometres"}  # of xyzt_units; 2 is mm, 0 says nothing
VOXEL_SHIFT = 0.1  # voxels between sform and qform at a corner; quaternions round far less


def _stops(name: str, message: str, cure: str) -> Rule:
    """A rule that was decided when the file was read."""

    def check(volume: Volume, facts: Facts) -> Iterator[Broken]:
        if volume.failure is not None and volume.failure.rule == name:
            yield Broken(volume.failure.value, cure)

    return rule(name, message)(check)


inside = _stops("inside", "must lie inside the dataset folder", "Put the file itself there")
readable = _stops(
    "readable", "must be a file that can be opened", "Restore it or correct its rights"
)
ending = _stops(
    "ending", "must be gzip when its name ends in .gz, and only then", "Rename or compress it"
)
nifti = _stops("nifti", "must be a readable NIfTI file", "Restore or remove it")
whole = _stops(
    "whole",
    "must be whole, with the size of its header and a right checksum",
    "Restore or remove it",
)
datatype = _stops(
    "datatype", "must hold whole or real numbers (no RGB, no complex)", "Convert it to float32"
)
voxel_budget = _stops(
    "voxel-budget", f"must have at most {MAX_VOXELS:,} voxels", "Crop it or correct its header"
)


@rule("dimensions", "must be 3-D with two or more voxels a side (an image also 4-D)")
def dimensions(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None:
        return
    most = 3 if volume.is_label else 4
    if not 3 <= len(volume.shape) <= most or min(volume.shape[:3]) < 2:
        cure = "Merge its channels" if volume.is_label else "Convert it to one 3-D volume a channel"
        yield Broken(volume.shape, cure)


@rule("channels", "must have the manifest's channels in its fourth dimension")
def channels(image: Volume, facts: Facts) -> Iterator[Broken]:
    names = facts.manifest.channel_names
    if image.header is None or not names or not 3 <= len(image.shape) <= 4:
        return
    if image.channels != len(names):
        value = f"{image.channels} channels (shape {image.shape}), expected {len(names)} channels"
        yield Broken(value, "Correct the file or the manifest's channel_names")


@rule("affine", "must have a finite, invertible affine")
def affine(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None:
        return
    matrix = volume.affine
    if not np.isfinite(matrix).all():
        yield Broken("NaN or infinite entries", "Correct its sform or qform")
    elif not _invertible(matrix[:3, :3]):
        yield Broken(f"the rows {matrix[:3, :3].round(4).tolist()}", "Correct its sform or qform")


@rule("origin", f"must lie within {FARTHEST / 1000:g} m of the scanner's centre")
def origin(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None or not np.isfinite(volume.affine).all():
        return
    if (far := float(np.abs(volume.affine[:3, 3]).max())) > FARTHEST:
        yield Broken(f"{far:.3g} mm", "Correct the offsets of its sform or qform")


@rule("shear", "must have axes at right angles", WARNING)
def shear(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None or not np.isfinite(volume.affine).all():
        return
    lengths = np.sqrt((volume.affine[:3, :3] ** 2).sum(0))
    if not (lengths > 0).all():
        return
    axes = volume.affine[:3, :3] / lengths
    most = float(np.abs((axes.T @ axes)[np.triu_indices(3, 1)]).max())
    if (degrees := float(np.degrees(np.arcsin(min(most, 1.0))))) > SHEAR:
        cure = "Resample it, as for a tilted gantry: many programs drop the shear"
        yield Broken(f"{degrees:.1f} degrees off", cure)


@rule("unit", "must give its sizes in mm")
def unit(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None:
        return
    if name := UNITS.get(int(volume.raw["xyzt_units"]) & 7):
        cure = "The unit is wrong, or the sizes: write mm; every program here takes them for mm"
        yield Broken(f"{name} in xyzt_units", cure)


@rule("spacing", "must have a voxel spacing above 0 mm in its header")
def spacing(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None:
        return
    zooms = np.asarray(volume.raw["pixdim"][1:4], float)
    # Negative ones are read as positive by every program; 0 and NaN are not.
    if not (np.isfinite(zooms).all() and (zooms != 0).all()):
        yield Broken(zooms.tolist(), "Write the true spacing into pixdim")


@rule("sform-qform", "must have an sform and a qform that agree")
def sform_qform(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None or int(volume.raw["sform_code"]) < 1:
        return
    cure = "Set both to the right one: MONAI reads the sform, other programs the qform"
    if int(volume.raw["qform_code"]) > 0:
        shift = _corner_shift(volume)
        if not shift <= VOXEL_SHIFT:  # true for NaN too
            yield Broken(f"{shift:.3g} voxels between them at a corner", cure)
            return
    zooms = np.abs(np.asarray(volume.raw["pixdim"][1:4], float))
    if not np.allclose(zooms, volume.spacing, rtol=10 * TOLERANCE):
        lengths = [round(mm, 4) for mm in volume.spacing]
        value = f"pixdim {zooms.round(4).tolist()} mm and sform {lengths} mm"
        yield Broken(value, cure, severity=WARNING)


@rule("orientation", "must say where it lies, by sform or qform", WARNING)
def orientation(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None:
        return
    if int(volume.raw["sform_code"]) < 1 and int(volume.raw["qform_code"]) < 1:
        yield Broken("neither", "Left and right may be swapped: write the true sform")


@rule("scaling", "must have a finite intensity scaling")
def scaling(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.header is None:
        return
    slope, inter = float(volume.raw["scl_slope"]), float(volume.raw["scl_inter"])
    # slope 0 means unscaled, whatever the intercept says
    if slope != 0 and not np.isfinite([slope, inter]).all():
        yield Broken(
            f"scl_slope {slope:g}, scl_inter {inter:g}", "Programs disagree on it: write 1 and 0"
        )


def _invertible(matrix: np.ndarray) -> bool:
    lengths = np.sqrt((matrix**2).sum(0))
    return bool((lengths > 0).all() and abs(np.linalg.det(matrix / lengths)) > TOLERANCE)


def _corner_shift(volume: Volume) -> float:
    """Largest distance of a corner by sform and by qform, in smallest voxel edges."""
    try:
        with np.errstate(all="ignore"):
            qform = np.asarray(volume.header.get_qform(), float)
    except Exception:  # nibabel raises by what the quaternion is
        return float("nan")
    size = np.array(volume.shape[:3])
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= size - 1
    with np.errstate(all="ignore"):
        distance = np.sqrt((((volume.affine - qform) @ corners.T)[:3] ** 2).sum(0)).max()
        return float(distance / min(volume.spacing)) if min(volume.spacing) > 0 else float("nan")
