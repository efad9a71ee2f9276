"""Volumes and data sets that break one rule each."""

import gzip
import json
import os
import shutil
import struct
from pathlib import Path

import nibabel as nib
import numpy as np

from helpers.msd import image_of, label_of, save
from perforated_monai.data.check import check as lists

IMAGE, LABEL = "imagesTr/case_03.nii.gz", "labelsTr/case_03.nii.gz"

SHAPE = (8, 9, 7)


ONE_CASE = lists.VOLUME_RULES + lists.IMAGE_RULES + lists.LABEL_RULES + lists.PAIR_RULES


def image(root: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> str:
    save(root / IMAGE, voxels, affine)
    return IMAGE


def label(root: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> str:
    save(root / LABEL, voxels, affine)
    return LABEL


def edit_header(root: Path, file: str, offset: int, layout: str, *values: float) -> str:
    """Overwrite fields of a NIfTI-1 header, past nibabel's own checks."""
    raw = bytearray(gzip.decompress((root / file).read_bytes()))
    raw[offset : offset + struct.calcsize(layout)] = struct.pack(layout, *values)
    (root / file).write_bytes(gzip.compress(raw))
    return file


def link_outside(root: Path) -> str:
    shutil.move(root / IMAGE, root.parent / "outside.nii.gz")
    (root / IMAGE).symlink_to(root.parent / "outside.nii.gz")
    return IMAGE


def empty_file(root: Path) -> str:
    (root / IMAGE).write_bytes(b"")
    return IMAGE


def named_pipe(root: Path) -> str:
    (root / IMAGE).unlink()
    os.mkfifo(root / IMAGE)
    return IMAGE


def pack_again(root: Path, file: str = IMAGE) -> str:
    (root / file).write_bytes(gzip.compress(gzip.decompress((root / file).read_bytes()), 1))
    return file


def not_gzip(root: Path) -> str:
    (root / IMAGE).write_bytes(gzip.decompress((root / IMAGE).read_bytes()))
    return IMAGE


def text_file(root: Path) -> str:
    (root / LABEL).write_bytes(gzip.compress(b"not a volume " * 99))
    return LABEL


def flipped_bit(root: Path) -> str:
    content = bytearray((root / IMAGE).read_bytes())
    content[len(content) // 2] ^= 4
    (root / IMAGE).write_bytes(content)
    return IMAGE


def cut(count: int):
    def cut_file(root: Path) -> str:
        (root / LABEL).write_bytes((root / LABEL).read_bytes()[:-count])
        return LABEL

    return cut_file


def colour(root: Path) -> str:
    rgb = np.zeros(SHAPE, np.dtype([(c, "u1") for c in "RGB"]))
    return image(root, rgb)


def unpair(root: Path) -> str:
    (root / LABEL).unlink()
    return IMAGE


def lose(root: Path) -> str:
    (root / LABEL).unlink()
    (root / IMAGE).unlink()
    return ""


def lose_test_part(root: Path) -> str:
    cases = json.loads((root / "manifest.json").read_text())["cases"]
    for case in (c for c, entry in cases.items() if entry["fold"] == "test"):
        for folder in ("imagesTr", "labelsTr"):
            (root / folder / f"{case}.nii.gz").unlink()
    return ""


def add(root: Path) -> str:
    save(root / "imagesTr/new.nii.gz", image_of(99, SHAPE))
    return "imagesTr/new.nii.gz"


def copy_case(root: Path, same_part: bool) -> str:
    """The voxels of one case under the name of another, with other bytes around them."""
    cases = json.loads((root / "manifest.json").read_text())["cases"]
    folds = {case: entry["fold"] for case, entry in cases.items()}
    first, second = next(
        (a, b)
        for a in sorted(folds)
        for b in sorted(folds)
        if a < b and (folds[a] == folds[b]) == same_part
    )
    voxels = np.asanyarray(nib.load(root / f"imagesTr/{first}.nii.gz").dataobj)
    copied = nib.Nifti1Image(voxels, np.eye(4))
    copied.header["descrip"] = b"copy"
    nib.save(copied, root / f"imagesTr/{second}.nii.gz")
    return f"imagesTr/{first}.nii.gz"


def with_value(value: float, dtype: type = np.float32):
    def change(root: Path) -> str:
        voxels = label_of(3, SHAPE).astype(dtype)
        voxels[4, 4, 3] = value
        return label(root, voxels)

    return change


def nan_slab(root: Path) -> str:
    voxels = image_of(3, SHAPE)
    voxels[:, :, 3] = np.nan
    return image(root, voxels)


def huge_voxel(root: Path) -> str:
    voxels = image_of(3, SHAPE).astype(np.float32)
    voxels[4, 4, 3] = 3e38
    return image(root, voxels)


def trailing_bytes(root: Path) -> str:
    raw = gzip.decompress((root / IMAGE).read_bytes())
    (root / IMAGE).write_bytes(gzip.compress(raw + bytes(64)))
    return IMAGE


def shifted(by: float):
    affine = np.eye(4)
    affine[0, 3] = by
    return lambda root: label(root, label_of(3, SHAPE), affine)


def singular(root: Path) -> str:
    return edit_header(root, IMAGE, 280, "<12f", 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)


def declare_huge(root: Path) -> str:
    return edit_header(root, IMAGE, 40, "<4h", 3, 30000, 30000, 30000)


def same_patient_in_two_parts(root: Path) -> str:
    """A manifest of any origin: here the patients are written into it by hand."""
    path = root / "manifest.json"
    content = json.loads(path.read_text())
    entries = list(content["cases"].items())
    first = entries[0][1]["fold"]
    other = next(case for case, entry in entries if entry["fold"] != first)
    for case, entry in entries:
        entry["patient"] = entries[0][0] if case == other else case
    path.write_text(json.dumps(content))
    return ""


# rule -> changes that break it; each returns the file that must be named
BREAKS = {
    "inside": [link_outside],
    "readable": [empty_file, named_pipe],
    "ending": [not_gzip],
    "nifti": [text_file, lambda r: edit_header(r, IMAGE, 70, "<h", 9999)],
    "whole": [flipped_bit, cut(1), cut(6), cut(100)],
    "datatype": [colour, lambda r: image(r, np.ones(SHAPE, np.complex64))],
    "voxel-budget": [declare_huge],
    "dimensions": [
        lambda r: image(r, image_of(3, (8, 9))),
        lambda r: image(r, image_of(3, (8, 9, 1))),
        lambda r: image(r, image_of(3, (8, 9, 7, 2, 2))),
        lambda r: label(r, label_of(3, (8, 9, 7, 2))),
    ],
    "channels": [lambda r: image(r, image_of(3, (8, 9, 7, 2)))],
    "affine": [singular, lambda r: edit_header(r, LABEL, 280, "<f", np.nan)],
    "origin": [lambda r: edit_header(r, IMAGE, 292, "<f", 1e20)],
    "shear": [lambda r: edit_header(r, IMAGE, 284, "<f", 0.2)],
    "unit": [lambda r: edit_header(r, IMAGE, 123, "<B", 1)],
    "spacing": [
        lambda r: edit_header(r, IMAGE, 80, "<f", 0.0),
        lambda r: edit_header(r, IMAGE, 88, "<f", np.inf),
    ],
    "sform-qform": [
        lambda r: edit_header(r, IMAGE, 252, "<h", 1) and edit_header(r, IMAGE, 268, "<f", 9.0),
        lambda r: edit_header(r, IMAGE, 80, "<f", 1.5),
    ],
    "orientation": [lambda r: edit_header(r, IMAGE, 252, "<2h", 0, 0)],
    "scaling": [lambda r: edit_header(r, IMAGE, 112, "<2f", np.inf, 0)],
    "finite": [nan_slab],
    "constant": [lambda r: image(r, np.full(SHAPE, 3, np.float32))],
    "extreme": [huge_voxel],
    "label-integer": [with_value(0.999), with_value(-1, np.int16)],
    "label-values": [with_value(7, np.uint8), with_value(300, np.int16)],
    "label-empty": [lambda r: label(r, np.zeros(SHAPE, np.uint8))],
    "trailing": [trailing_bytes],
    "pair-shape": [lambda r: label(r, label_of(3, (8, 9, 6)))],
    "pair-affine": [shifted(2e-3), shifted(-40)],
    "unpaired": [unpair],
    "missing": [lose],
    "test-absent": [lose_test_part],
    "extra": [add],
    "checksum": [lambda r: image(r, image_of(77, SHAPE))],
    "packing": [
        pack_again,
        lambda r: [pack_again(r, f"imagesTr/case_{k:02d}.nii.gz") for k in range(5)] and "",
    ],
    "leak": [lambda r: copy_case(r, same_part=False)],
    "patient-leak": [same_patient_in_two_parts],
    "duplicate": [lambda r: copy_case(r, same_part=True)],
    "spacing-outlier": [lambda r: image(r, image_of(3, SHAPE), np.diag([1, 1, 2.5, 1]))],
    "size-outlier": [lambda r: image(r, image_of(3, (8, 9, 40)))],
}
