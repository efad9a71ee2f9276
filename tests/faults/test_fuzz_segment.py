"""Random damage to scans, series and lists: right masks and rows, or a refusal by name.

The oracle is the same everywhere. A row a case; "done" means that the mask is the rounded scan as
nibabel reads it, on its grid; anything else has a reason; the exit code says which; nothing is
written outside the output folder, and the run ends in time. The short runs are part of the default
suite; the long one is slow, for it takes hours.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tempfile
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fuzzing import MODEST, SHORT, at_length, holds
from helpers.segment_bundle import blocks, labels_of, save
from perforated_monai.errors import UserError
from perforated_monai.inference.segment.cases import find_cases
from perforated_monai.inference.segment.found import unshown

WHOLE = nib.Nifti1Image(blocks((9, 8, 7)), np.diag([2, 1, 0.5, 1])).to_bytes()

# Fields of a NIfTI-1 header: dims, type, pixdim, offset, scaling, unit, forms.
FIELDS = [(40, "<h"), (42, "<h"), (46, "<h"), (48, "<h"), (70, "<h"), (72, "<h"), (123, "<b")]
FIELDS += [(k, "<f") for k in (76, 80, 84, 88, 108, 112, 116, 256, 268, 280, 284, 292, 316, 320)]
FIELDS += [(252, "<h"), (254, "<h"), (344, "<i"), (0, "<i"), (348, "<i")]
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 7, 352, 368, 1e20, -1e20, 3e38, 1e-38]),
    st.floats(width=32),
    st.integers(-(2**15), 2**15 - 1),
)


@st.composite
def nifti(draw: st.DrawFn) -> bytes:
    """A whole file with some of its fields, bytes or its end changed, packed or not."""
    data = bytearray(WHOLE)
    for _ in range(draw(st.integers(0, 3))):
        offset, layout = draw(st.sampled_from(FIELDS))
        value = draw(NUMBERS)
        if layout != "<f":
            span = 8 * struct.calcsize(layout)
            whole = int(value) if np.isfinite(value) else 0
            value = (whole + 2 ** (span - 1)) % 2**span - 2 ** (span - 1)
        struct.pack_into(layout, data, offset, value)
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.sampled_from([0, 0, 0, 1, 4, 500]))
    data = data[: len(data) - cut] + draw(st.binary(max_size=20))
    packed = bytearray(gzip.compress(bytes(data), mtime=0)) if draw(st.booleans()) else data
    if draw(st.integers(0, 4)) == 0:
        packed[draw(st.integers(0, len(packed) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(packed)


def expected(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What the network of rounded values gives, by nibabel's own reading."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = nib.load(path)
        values = np.asarray(image.dataobj, np.float32)
    values = values[..., 0] if values.ndim == 4 else values
    # Half a label apart a sum may round either way; those voxels are not compared.
    labels = np.clip(np.floor(values.astype(np.float64) + 0.5), 0, 2)
    labels[np.abs(values - np.floor(values) - 0.5) < 1e-3] = -1
    return labels, image.affine


def one_file(data: bytes, segmenter) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        path = root / "in" / ("a.nii.gz" if data[:2] == b"\x1f\x8b" else "a.nii")
        save(root / "in" / "good.nii", blocks())
        path.write_bytes(data)
        rows = {row["case"]: row for row in holds(root, root / "in", segmenter, 2)}
        assert rows["good.nii"]["status"] == "done"
        if rows[path.name]["status"] != "done":
            return
        labels, affine = expected(path)
        mask = nib.load(root / "out" / "a_seg.nii.gz")
        found = np.asarray(mask.dataobj)
        assert found.shape == labels.shape and np.allclose(mask.affine, affine, atol=1e-3)
        assert np.array_equal(found[labels >= 0], labels[labels >= 0])


@given(data=nifti())
@settings(max_examples=SHORT, **MODEST)
def test_damaged_nifti(segmenter, data):
    one_file(data, segmenter)


@at_length(0.2)
@given(data=nifti())
def test_damaged_nifti_at_length(segmenter, data):
    one_file(data, segmenter)


SCANS = {"a.nii": blocks((9, 8, 7)), "b.nii": blocks((9, 8, 7))[::-1]}
CELLS = st.one_of(
    st.sampled_from(["a.nii", "b.nii", "", "case", "x", "no.nii", "../a.nii", "=1+1", "a.nii;b"]),
    st.text(max_size=8),
)
HEADERS = st.one_of(
    st.just(["case", "image"]), st.just(["image", "case"]), st.lists(CELLS, max_size=3)
)


def one_list(name: str, text: str, segmenter) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for file, values in SCANS.items():
            save(root / file, values)
        (root / name).write_text(text, encoding="utf-8", newline="", errors="surrogatepass")
        try:
            cases = find_cases(root / name, root / "out")[0]
        except UserError as error:
            assert name in str(error) or "holds no" in str(error)
            assert str(error).isprintable() and not (root / "out").exists()
            return
        masks = {}
        for row in holds(root, root / name, segmenter, len(cases)):
            if row["status"] == "done":
                masks[row["case"]] = labels_of(root / "out" / unshown(row["mask"]))
        for case in cases:  # what lies under a case's name is the mask of its own file
            if case.name in masks:
                (file,) = case.files
                assert np.array_equal(masks[case.name], np.round(SCANS[file.name])), case


def csv_list(header: list[str], rows: list[list[str]], sign: str, segmenter) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=sign)
    lines = [header, *rows]
    writer.writerows([[c.encode("utf-8", "replace").decode() for c in row] for row in lines])
    one_list("list.csv", text.getvalue(), segmenter)


csv_parts = {
    "header": HEADERS,
    "rows": st.lists(st.lists(CELLS, max_size=3), max_size=4),
    "sign": st.sampled_from(",,,;\t"),
}


@given(**csv_parts)
@settings(max_examples=SHORT, **MODEST)
def test_any_csv_list(segmenter, header, rows, sign):
    csv_list(header, rows, sign, segmenter)


@at_length(0.25)
@given(**csv_parts)
def test_any_csv_list_at_length(segmenter, header, rows, sign):
    csv_list(header, rows, sign, segmenter)


VALUES = st.recursive(
    st.one_of(CELLS, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "case", "label"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"image": st.one_of(st.sampled_from(sorted(SCANS)), st.lists(CELLS, max_size=2))},
        optional={"case": st.one_of(CELLS, st.integers(-1, 3))},
    ),
    max_size=4,
)


@given(value=st.one_of(VALUES, ENTRIES))
@settings(max_examples=SHORT, **MODEST)
def test_any_json_list(segmenter, value):
    one_list("list.json", json.dumps(value), segmenter)


@at_length(0.2)
@given(value=st.one_of(VALUES, ENTRIES))
def test_any_json_list_at_length(segmenter, value):
    one_list("list.json", json.dumps(value), segmenter)
