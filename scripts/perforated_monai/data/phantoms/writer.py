"""Phantom datasets in the layout of the Medical Segmentation Decathlon (MSD)."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ...errors import UserError
from ...files import cure_of, write_json
from ..reading import read
from .ct import ct_phantom
from .drawing import Shape, Slabs
from .glioma import glioma_phantom
from .hippocampus import hippocampus_phantom
from .tumour import tumour_phantom

# Raise it whenever a seed gives other bytes than before: manifests name it.
GENERATOR_VERSION = 1

MOST_CASES = 100_000  # their list is made before the first volume
MOST_SEED = 2**63 - 1

KINDS = ("hippocampus", "tumour", "ct", "glioma")

MODALITIES = {
    "hippocampus": ("MRI",),
    "tumour": ("FLAIR", "T1w", "t1gd", "T2w"),
    "ct": ("CT",),
    "glioma": ("t1gd",),
}

LABELS = {
    "hippocampus": ("background", "Anterior", "Posterior"),
    "tumour": ("background", "edema", "non-enhancing tumor", "enhancing tumour"),
    "ct": ("background", "liver", "spleen", "kidney"),
    "glioma": ("background", "enhancing tumour"),
}


def make_phantoms(
    out: Path | str,
    cases: int = 20,
    seed: int = 0,
    channels: int | None = None,
    kind: str = "hippocampus",
    test_cases: int = 0,
    shape: Shape | None = None,
) -> Path:
    """Write a phantom dataset in MSD layout and return its folder.

    ``imagesTr``, ``labelsTr`` and, with ``test_cases``, ``imagesTs`` and ``labelsTs`` hold
    ``phantom_NNN.nii.gz``; held-out cases are numbered on after the training cases. Case k of a
    seed is the same volume in every set (``numpy.random.SeedSequence([seed, k])``). The folder is
    filled only when all files are complete; one that holds this very set is used as it is.

    Args:
        out: folder to make; it may exist when it is empty or holds this very set.
        cases: labelled training volumes.
        seed: of the whole set, 0 or more.
        channels: of an image; as the kind has (4 for ``"tumour"``, else 1) when not given.
        kind: ``"hippocampus"``, ``"tumour"``, ``"ct"`` or ``"glioma"``.
        test_cases: labelled held-out volumes.
        shape: voxels of a volume of another kind; hippocampus crops draw their own.

    Raises:
        UserError: for a value out of range, a folder with other content, or a failed write.
    """
    _check(cases, seed, channels, kind, test_cases, shape)
    channels = channels or len(MODALITIES[kind])
    out = Path(out)
    description = _describe(cases, seed, channels, kind, test_cases, shape)
    try:
        if _holds(out, description):
            return out
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as staging:
            _fill(Path(staging), description)
            _publish(Path(staging), out)
    except OSError as error:
        msg = (
            f"Cannot write phantoms to {out}: {error.strerror or error}. {cure_of(error)}; "
            "no case was left behind."
        )
        raise UserError(msg) from error
    return out


def _check(
    cases: int, seed: int, channels: int | None, kind: str, test_cases: int, shape: Shape | None
) -> None:
    """Refuse what no set can have."""
    if kind not in KINDS:
        msg = f"kind must be one of {', '.join(KINDS)}; got {kind!r}."
        raise UserError(msg)
    for name, value, least, most in (
        ("cases", cases, 1, MOST_CASES),
        ("seed", seed, 0, MOST_SEED),
        ("test_cases", test_cases, 0, MOST_CASES),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            msg = f"{name} must be a whole number from {least} to {most:,}; got {value!r}."
            raise UserError(msg)
    most = len(MODALITIES[kind])
    if channels is not None and channels not in range(1, most + 1):
        msg = (
            f"A {kind} phantom has 1 to {most} channels; got {channels!r}. "
            "kind='tumour' has up to 4."
        )
        raise UserError(msg)
    if shape is not None and (kind == "hippocampus" or len(shape) != 3 or min(shape) < 16):
        msg = (
            f"shape must be three sizes of 16 or more, and not for hippocampus; got {shape!r} "
            f"for {kind!r}."
        )
        raise UserError(msg)


def _describe(
    cases: int, seed: int, channels: int, kind: str, test_cases: int, shape: Shape | None
) -> dict[str, Any]:
    """``dataset.json``: the MSD keys, and under ``generator`` all that decides the bytes."""
    names = [f"phantom_{k:03d}.nii.gz" for k in range(cases + test_cases)]
    return {
        "name": f"phantom_{kind}",
        "description": f"Synthetic volumes ({kind}) for demos and tests; no patient data",
        "reference": "perforated_monai.phantom",
        "licence": "Apache-2.0",
        "release": str(GENERATOR_VERSION),
        "tensorImageSize": "4D" if channels > 1 else "3D",
        "modality": {str(i): name for i, name in enumerate(MODALITIES[kind][:channels])},
        "labels": {str(i): name for i, name in enumerate(LABELS[kind])},
        "numTraining": cases,
        "numTest": test_cases,
        "training": [
            {"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[:cases]
        ],
        "test": [f"./imagesTs/{n}" for n in names[cases:]],
        "generator": {
            "name": "perforated_monai.phantom",
            "version": GENERATOR_VERSION,
            "seed": seed,
            "kind": kind,
            "channels": channels,
            "shape": None if shape is None else list(shape),
        },
    }


def _files(description: dict[str, Any]) -> list[tuple[str, str]]:
    """Image and label of every case, training first, relative to the set's folder."""
    training = [(case["image"], case["label"]) for case in description["training"]]
    return training + [(i, i.replace("imagesTs", "labelsTs")) for i in description["test"]]


def _holds(out: Path, description: dict[str, Any]) -> bool:
    """Whether ``out`` already is this set; raises when it holds anything else."""
    if not out.exists() or (out.is_dir() and not _visible(out)):
        return False
    index = out / "dataset.json"
    same = False
    if index.is_file():
        with contextlib.suppress(OSError, ValueError):
            same = read(index) == description
    if same and all((out / f).is_file() for pair in _files(description) for f in pair):
        return True
    msg = (
        f"The folder for phantoms must be new, empty or hold the very same set; {out} holds other "
        "content. Choose another folder or remove it."
    )
    raise UserError(msg)


def _visible(folder: Path) -> list[Path]:
    """All but what an interrupted run left behind."""
    return [path for path in folder.iterdir() if not path.name.startswith(".partial-")]


def _fill(folder: Path, description: dict[str, Any]) -> None:
    """Write every case and ``dataset.json``, all of it on the disk when it returns."""
    files = _files(description)
    for image, label in files:
        (folder / image).parent.mkdir(exist_ok=True)
        (folder / label).parent.mkdir(exist_ok=True)
    for k, (image, label) in enumerate(files):
        slabs, affine, shape, dtype = _case(k, description["generator"])
        with (
            _volume(folder / image, shape, dtype, affine) as image_file,
            _volume(folder / label, shape[:3], np.uint8, affine) as label_file,
        ):
            for image_slab, label_slab in slabs:
                image_file.write(image_slab.astype(dtype, copy=False).tobytes(order="F"))
                label_file.write(label_slab.tobytes(order="F"))
    write_json(folder / "dataset.json", description, indent=1)


def _case(k: int, generator: dict[str, Any]) -> tuple[Slabs, np.ndarray, tuple[int, ...], Any]:
    """Slabs, affine, shape and storage type of case ``k``."""
    rng = np.random.default_rng(np.random.SeedSequence([generator["seed"], k]))
    shape = generator["shape"] and tuple(generator["shape"])
    if generator["kind"] == "ct":
        shape = shape or (512, 512, 600)
        slabs, affine = ct_phantom(rng, shape)
        return slabs, affine, shape, np.int16
    if generator["kind"] == "glioma":
        image, label, affine = glioma_phantom(rng, shape)
    elif generator["kind"] == "tumour":
        image, label, affine = tumour_phantom(rng, generator["channels"], shape)
    else:
        image, label, affine = hippocampus_phantom(rng)
    whole = image.max() <= 255 and np.array_equal(image, np.round(image))
    dtype = np.uint8 if whole else np.float32
    return iter([(image, label)]), affine, image.shape, dtype


@contextlib.contextmanager
def _volume(path: Path, shape: tuple[int, ...], dtype: Any, affine: np.ndarray) -> Iterator[Any]:
    """Open a ``.nii.gz`` for its voxels in Fortran order; synced when left.

    nibabel writes whole arrays only. No time stamp goes into the file: equal seeds, equal bytes.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    with path.open("wb") as file:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
            stream.write(header.binaryblock + bytes(4))
            yield stream
        file.flush()
        os.fsync(file.fileno())


def _publish(staging: Path, out: Path) -> None:
    """Move the complete set under its final names, ``dataset.json`` last."""
    for path in sorted(staging.iterdir(), key=lambda p: p.name == "dataset.json"):
        path.replace(out / path.name)
