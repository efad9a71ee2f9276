"""Rules on an image with its label, and on all cases together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from ...rules import NOTE, WARNING, Broken, rule
from ..patients import in_two_parts
from ..schema import PACKED
from .facts import Facts
from .volume import Volume

AFFINE_TOLERANCE = 1e-3  # mm: far below a voxel, far above the float32 rounding of NIfTI headers
FARTHEST = 6.0  # robust standard deviations
FEWEST_FOR_SPREAD = 10
MOST_NAMED = 3


@rule("pair-shape", "must have the shape of its image")
def pair_shape(image: Volume, label: Volume, facts: Facts) -> Iterator[Broken]:
    if image.shape[:3] != label.shape[:3]:
        value = f"{label.shape}, {image.file} has {image.shape}"
        yield Broken(value, "Resample the label to the image")


@rule("pair-affine", f"must have the affine of its image to {AFFINE_TOLERANCE} mm")
def pair_affine(image: Volume, label: Volume, facts: Facts) -> Iterator[Broken]:
    with np.errstate(all="ignore"):
        distance = np.abs(image.affine - label.affine).max()
    if not distance <= AFFINE_TOLERANCE:  # true for NaN too
        value = f"a difference of {distance:.3g} to {image.file}"
        yield Broken(value, "Resample the label to the image or correct its header")


@rule("unpaired", "must have an image and a label")
def unpaired(facts: Facts) -> Iterator[Broken]:
    for case in facts.cases:
        for here, absent in (pair := facts.manifest.files(case)), pair[::-1]:
            if here in facts.listed and absent not in facts.listed:
                cure = "Add that file, or leave the case out of the manifest"
                yield Broken(f"no {absent} beside it", cure, here)


@rule("missing", "must hold every case of the manifest")
def missing(facts: Facts) -> Iterator[Broken]:
    manifest = facts.manifest
    absent = [c for c in facts.cases if facts.listed.isdisjoint(manifest.files(c))]
    if not absent:
        return
    names = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if absent[5:] else "")
    value = f"{len(absent)} of the {len(manifest.cases)} cases of {manifest.name} missing: {names}"
    cure = "Correct the folder or add the files"
    if set(absent) <= set(manifest.test):
        cure = "They are the held-out test part: choose train or validation, or add the files"
    source = f" (source: {manifest.source_url})" if manifest.source_url else ""
    yield Broken(value, f"{cure}, as in {' and '.join(manifest.files(absent[0]))}{source}")


@rule("test-absent", "may lack the test part as a whole", NOTE)
def test_absent(facts: Facts) -> Iterator[Broken]:
    apart = [c for c in facts.manifest.test if c not in facts.cases]
    if apart and facts.listed.isdisjoint(f for c in apart for f in facts.manifest.files(c)):
        value = f"{len(apart)} test cases absent, as expected: {', '.join(apart)}"
        yield Broken(value, "Nothing to do: scores on the test part need them")


@rule("extra", "must belong to a case of the manifest", WARNING)
def extra(facts: Facts) -> Iterator[Broken]:
    known = {file for case in facts.manifest.cases for file in facts.manifest.files(case)}
    for file in sorted(facts.listed - known):
        cure = "It is never read: remove it or write a manifest that has it"
        yield Broken(f"in no case of manifest {facts.manifest.name}", cure, file)


@rule("checksum", "must have the manifest's sha256, uncompressed", voxels=True)
def checksum(facts: Facts) -> Iterator[Broken]:
    for case, pair in facts.pairs.items():
        known = facts.manifest.cases[case] or {}
        for kind, volume in zip(("image", "label"), pair, strict=True):
            measured = volume.content.sha256 if volume.content is not None else ""
            if measured and kind in known and measured != known[kind]:
                value = f"{measured[:16]}…, expected {known[kind][:16]}…"
                yield Broken(value, "Restore the original file", volume.file)


@rule("packing", "may be compressed otherwise than recorded", NOTE, voxels=True)
def packing(facts: Facts) -> Iterator[Broken]:
    """The content is as recorded: compressed anew, or a flipped bit that unpacking does not see."""
    other = []
    for case, pair in facts.pairs.items():
        known = facts.manifest.cases[case] or {}
        for kind, volume in zip(("image", "label"), pair, strict=True):
            content, packed = volume.content, known.get(PACKED[kind])
            if content is None or packed in (None, content.crc32):
                continue
            if content.sha256 == known[kind]:
                other.append((volume.file, f"CRC-32 {content.crc32}, recorded {packed}"))
    if len(other) > MOST_NAMED:
        names = ", ".join(file for file, _ in other[:MOST_NAMED])
        other = [("", f"{len(other)} such files, as {names}")]
    for file, value in other:
        cure = "Nothing to do: the unpacked bytes have the manifest's sha256"
        yield Broken(value, cure, file)


@rule("leak", "must not lie in two parts of the split", voxels=True)
def leak(facts: Facts) -> Iterator[Broken]:
    part_of = facts.part_of
    for cases in _same_images(facts):
        parts = sorted({part_of[case] for case in cases if case in part_of})
        if len(parts) > 1:
            value = f"the same voxels as {', '.join(cases[1:])} (in {', '.join(parts)})"
            cure = "A copy in training makes the score too high: keep one, write a new manifest"
            yield Broken(value, cure, facts.manifest.files(cases[0])[0])


@rule("patient-leak", "must not have volumes of one patient in two parts of the split")
def patient_leak(facts: Facts) -> Iterator[Broken]:
    """Of the manifest as a whole, so that training on some of its cases refuses too."""
    for patient, where in in_two_parts(facts.manifest.patients, facts.part_of):
        value = f"patient {patient} with " + ", ".join(f"{c} in {p}" for p, c in where.items())
        cure = "Scores of known patients are too high: write a new manifest with prepare --patient"
        yield Broken(value, cure)


@rule("duplicate", "must not be there under two names", WARNING, voxels=True)
def duplicate(facts: Facts) -> Iterator[Broken]:
    part_of = facts.part_of
    for cases in _same_images(facts):
        if len({part_of.get(case) for case in cases}) == 1:
            value = f"the same voxels as {', '.join(cases[1:])}"
            yield Broken(value, "Keep one of them", facts.manifest.files(cases[0])[0])


@rule("spacing-outlier", "must have a spacing near the manifest's or the others'", WARNING)
def spacing_outlier(facts: Facts) -> Iterator[Broken]:
    yield from _outliers(facts, lambda image: image.spacing, facts.manifest.spacing_mm, 0.01, "mm")


@rule("size-outlier", "must have a size near the others'", WARNING)
def size_outlier(facts: Facts) -> Iterator[Broken]:
    yield from _outliers(facts, lambda image: image.shape[:3], None, 0.1, "voxels")


def _same_images(facts: Facts) -> list[list[str]]:
    """Groups of two or more cases whose images hold the same voxels."""
    groups = defaultdict(list)
    for case, (image, _) in facts.pairs.items():
        if image.content is not None:
            groups[image.content.voxels_digest].append(case)
    return [sorted(cases) for cases in groups.values() if len(cases) > 1]


def _outliers(
    facts: Facts,
    measure: Callable[[Volume], tuple[float, ...]],
    expected: list[float] | None,
    least: float,
    unit: str,
) -> Iterator[Broken]:
    """Images whose logarithms lie far from the centre, by median and 1.4826 MAD (Huber 1981).

    `least` is the smallest standard deviation, as a share of the centre: where most cases are
    equal, the MAD is 0. Without an expected centre, ten cases are the fewest to judge by.
    """
    images = [pair[0] for pair in facts.readable().values() if len(pair[0].shape) >= 3]
    rows = np.array([measure(image) for image in images], float).reshape(-1, 3)
    usable = (np.isfinite(rows) & (rows > 0)).all(1)
    images, rows = [im for im, ok in zip(images, usable, strict=True) if ok], np.log(rows[usable])
    if not images or (expected is None and len(images) < FEWEST_FOR_SPREAD):
        return
    median = np.median(rows, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(rows - median), axis=0), least)
    centre = median if expected is None else np.log(expected)
    for image, distance in zip(images, np.abs(rows - centre) / spread, strict=True):
        if distance.max() > FARTHEST:
            value = f"{_numbers(measure(image))} {unit}, {distance.max():.0f} robust standard "
            value += f"deviations from {_numbers(np.exp(centre))}"
            yield Broken(value, "Look at it; correct its header or leave it out", image.file)


def _numbers(values: tuple[float, ...] | np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
