"""Tiny synthetic data in the layout of each segmentation bundle of the zoo, and what shrinks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How one bundle is tried.

    Attributes:
        make: writes data below a folder; overrides for training and for inference.
        side: of windows and patches, in voxels.
        dims: of its images.
        train: more overrides of training, such as augmentation that a package of the machine lacks.
        segment: ``segment`` is tried (one 3-D image in, one mask out).
        note: what stands in the table beside the result.
    """

    make: Callable[[Path], tuple[Overrides, Overrides]]
    side: int = 32
    dims: int = 3
    train: Mapping[str, Any] = field(default_factory=dict)
    segment: bool = True
    note: str = ""


def volume(file: Path, side: int, spacing: float = 1.0, labels: int = 0, seed: int = 0) -> str:
    """A CT-like volume of balls, or with ``labels`` its label map; both come from one seed."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"))
    label = np.zeros((side,) * 3, np.uint8)
    for value in range(1, max(labels, 3)):
        centre = generator.uniform(0.3, 0.7, 3)[:, None, None, None] * side
        label[((grid - centre) ** 2).sum(0) < (side / 5) ** 2] = value
    data = np.minimum(label, max(labels - 1, 0)) if labels else None
    if data is None:
        data = (60 * np.minimum(label, 2) + generator.normal(20, 15, label.shape)).astype(np.int16)
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([spacing] * 3 + [1.0])), file)
    return str(file)


def pair(
    folder: Path, n: int, side: int, spacing: float, labels: int, names: tuple[str, str]
) -> None:
    """Image and label of case ``n``; ``names`` are patterns with one place for the number."""
    volume(folder / names[0].format(n), side, spacing, 0, n)
    volume(folder / names[1].format(n), side, spacing, labels, n)


def folders(
    cases: int,
    side: int,
    labels: int,
    *,
    spacing: float = 1.0,
    names: tuple[str, str] = ("imagesTr/c{:02}.nii.gz", "labelsTr/c{:02}.nii.gz"),
    test: str = "imagesTs/t.nii.gz",
    infer: str = "",
    end: str = "",
) -> Callable[[Path], tuple[Overrides, Overrides]]:
    """Images and labels in two folders, as of the Medical Segmentation Decathlon."""

    def make(data: Path) -> tuple[Overrides, Overrides]:
        for n in range(cases):
            pair(data, n, side, spacing, labels, names)
        volume(data / test, side, spacing, 0, 99)
        return {"dataset_dir": f"{data}{end}"}, {"dataset_dir": f"{data}{infer}"}

    return make


def listed(
    side: int, labels: int, *, channels: int = 0, spacing: float = 1.0, absolute: bool = False
) -> Callable[[Path], tuple[Overrides, Overrides]]:
    """A decathlon list with training, validation and testing."""

    def make(data: Path) -> tuple[Overrides, Overrides]:
        items = []
        for n in range(4):
            pair(data, n, side, spacing, labels, ("i{}.nii.gz", "l{}.nii.gz"))
            images = [
                volume(data / f"i{n}_{c}.nii.gz", side, spacing, 0, n) for c in range(channels)
            ]
            image: Any = images or f"{data}/i{n}.nii.gz" if absolute or images else f"i{n}.nii.gz"
            label = f"{data}/l{n}.nii.gz" if absolute else f"l{n}.nii.gz"
            items.append({"image": image, "label": label, "fold": int(n > 2)})
        test = [{"image": i["image"]} for i in items[:1]]
        content = {"training": items[:3], "validation": items[3:], "testing": test}
        (data / "list.json").write_text(json.dumps(content))
        both = {"data_list_file_path": str(data / "list.json"), "dataset_dir": str(data)}
        return both, dict(both)

    return make


def vista3d(data: Path) -> tuple[Overrides, Overrides]:
    """A list with folds."""
    train, _ = listed(64, 2)(data)
    content = json.loads((data / "list.json").read_text())
    content["training"] += content.pop("validation")
    (data / "list.json").write_text(json.dumps(content))
    return train, {"input_dict": {"image": str(data / "i0.nii.gz"), "label_prompt": [1]}}


def prostate(data: Path) -> tuple[Overrides, Overrides]:
    """Lists as CSV."""
    for n in range(3):
        pair(data, n, 96, 0.5, 3, ("i{}.nii.gz", "l{}.nii.gz"))
    for name, cases in (("train", (0, 1)), ("valid", (2,)), ("test", (2,))):
        rows = [f"i{n}.nii.gz,l{n}.nii.gz" for n in cases]
        (data / f"{name}.csv").write_text("\n".join(["t2,t2_anatomy_reader1", *rows]) + "\n")
    return {"dataset_dir": f"{data}/"}, {"dataset_dir": f"{data}/"}


def renal_cect(data: Path) -> tuple[Overrides, Overrides]:
    """Three phases and one label a case."""
    for n in range(2):
        for phase in ("12", "22-", "32-"):
            volume(data / f"c{n}" / f"{phase}.nii.gz", 40, 0.8, 0, n)
        volume(data / f"c{n}" / "merged.nii.gz", 40, 0.8, 7, n)
    return {"dataset_dir": str(data)}, {"dataset_dir": str(data)}


def ventricular(data: Path) -> tuple[Overrides, Overrides]:
    """Slices in one ``.npz``; volumes for inference."""
    slices = [picture(64, n) for n in range(10)]
    images = np.stack([i.mean(-1) for i, _ in slices]).astype(np.float32)
    np.savez(data / "allimages3label.npz", images=images, segs=np.stack([m for _, m in slices]))
    volume(data / "nii" / "t.nii.gz", 64)
    return {"dataset_dir": str(data)}, {"dataset_dir": str(data / "nii")}


def picture(side: int, seed: int, values: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image ``(H, W, 3)`` and its label map, in blocks of eight, which JPEG keeps."""
    generator = np.random.default_rng(seed)
    coarse = np.zeros((side // 8, side // 8), np.uint8)
    corner = generator.integers(0, side // 16, 2)
    for value in range(1, values):
        coarse[corner[0] + value - 1, corner[1] : corner[1] + 3] = value
    label = coarse.repeat(8, 0).repeat(8, 1)
    image = 60 * label[..., None].astype(np.float64) + generator.normal(30, 10, (side, side, 3))
    return image.clip(0, 255).astype(np.uint8), label


def endoscopic(data: Path) -> tuple[Overrides, Overrides]:
    """JPEG images, and labels beside them."""
    for n, part in enumerate(("train", "train", "val", "test")):
        image, label = picture(128, n, 2)
        folder = data / part / "video"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"f{n}.jpg", quality=100)
        Image.fromarray(label * 255).save(folder / f"f{n}_seg.jpg", quality=100)
    return {"dataset_dir": str(data)}, {"dataset_dir": str(data)}


def nuclick(data: Path) -> tuple[Overrides, Overrides]:
    """Patches around a nucleus, listed; for inference an image and its clicks."""
    items = []
    for n in range(4):
        image, label = picture(128, n, 2)
        Image.fromarray(image).save(data / f"i{n}.png")
        Image.fromarray(label).save(data / f"l{n}.png")
        items.append({"image": str(data / f"i{n}.png"), "label": str(data / f"l{n}.png")})
    (data / "dataset.json").write_text(json.dumps({"training": items[:3], "validation": items[3:]}))
    for part in ("Images", "Centroids"):
        (data / "Test" / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(128, 0, 2)[0]).save(data / "Test/Images/t.png")
    (data / "Test/Centroids/t.txt").write_text("[[64, 64]]")
    return {"dataset_dir": str(data)}, {"dataset_dir": str(data)}


def hovernet(data: Path) -> tuple[Overrides, Overrides]:
    """NumPy arrays of image, instances and types; PNG for inference."""
    for n, part in enumerate(("Train", "Train", "Test")):
        image, label = picture(272, n, 5)
        (data / part).mkdir(exist_ok=True)
        np.save(data / part / f"c{n}_image.npy", image)
        np.save(data / part / f"c{n}_inst_map.npy", (label > 0).astype(np.int32)[..., None])
        np.save(data / part / f"c{n}_type_map.npy", label.astype(np.int32)[..., None])
    (data / "png").mkdir(exist_ok=True)
    Image.fromarray(picture(256, 9, 5)[0]).save(data / "png" / "t.png")
    return {"dataset_dir": str(data)}, {"dataset_dir": str(data / "png")}


def dints(labels: int) -> Callable[[Path], tuple[Overrides, Overrides]]:
    """A list, and an architecture in place of the searched one: straight ahead on two levels."""

    def make(data: Path) -> tuple[Overrides, Overrides]:
        train, infer = listed(64, labels)(data)
        links = torch.zeros(12, 10)
        links[:, [0, 3]] = 1  # from a level to itself; ``TopologyConstruction`` numbers them so
        nodes = torch.zeros(13, 4)
        nodes[:, :2] = 1
        code = {"arch_code_a": links.numpy(), "arch_code_c": np.ones((12, 10)), "node_a": nodes}
        torch.save(code, data / "search_code.pt")
        where = {"arch_ckpt_path": str(data / "search_code.pt")}
        return train | where, infer | where

    return make


_NO_JITTER = "colour jitter and pictures off: torchvision does not load on the machine of the table"

RECIPES: dict[str, Recipe] = {
    "brats_mri_segmentation": Recipe(listed(40, 5, channels=4)),
    "endoscopic_tool_segmentation": Recipe(endoscopic, 128, 2, segment=False),
    "multi_organ_segmentation": Recipe(dints(8), 64),
    "pancreas_ct_dints_segmentation": Recipe(dints(3), 64),
    "pathology_nuclei_segmentation_classification": Recipe(
        *(hovernet, 256, 2), segment=False, note=f"its own SaveImaged fails; {_NO_JITTER}"
    ),
    "pathology_nuclick_annotation": Recipe(nuclick, 128, 2, segment=False, note=_NO_JITTER),
    "pediatric_abdominal_ct_segmentation": Recipe(listed(100, 4, spacing=1.5, absolute=True), 96),
    "prostate_mri_anatomy": Recipe(prostate, 96),
    "renalStructures_CECT_segmentation": Recipe(renal_cect, segment=False),
    "renalStructures_UNEST_segmentation": Recipe(
        folders(4, 96, 4, test="spleen/t.nii.gz", infer="/spleen"), 96
    ),
    "segmentation_template": Recipe(
        folders(5, 32, 4, names=("img{:02}.nii.gz", "lbl{:02}.nii.gz"), test="test/t.nii.gz",
                infer="/test")
    ),
    "spleen_ct_segmentation": Recipe(folders(4, 96, 2, spacing=1.5), 64),
    "spleen_deepedit_annotation": Recipe(
        *(folders(4, 40, 2), 96),
        note="`segment` takes its channels, an image and two maps of clicks, as files",
    ),
    "swin_unetr_btcv_segmentation": Recipe(
        *(folders(4, 132, 14, spacing=1.5), 96),
        train={"train::dataloader::batch_size": 1, "validate::inferer::sw_batch_size": 1},
    ),
    "ventricular_short_axis_3label": Recipe(
        *(ventricular, 64, 2), train={"num_iters": 2, "batch_size": 2, "num_substeps": 1}
    ),
    "vista3d": Recipe(
        *(vista3d, 64),
        segment=False,
        note="its own trainer gives boolean labels to the loss",
    ),
    "wholeBody_ct_segmentation": Recipe(folders(4, 48, 9, spacing=1.5)),
    "wholeBrainSeg_Large_UNEST_segmentation": Recipe(
        folders(4, 96, 9, names=("images/c{:02}.nii.gz", "labels/c{:02}.nii.gz"),
                test="test/t.nii.gz", infer="/test"), 96
    ),
}  # fmt: skip

_OF_TORCHVISION = ("TorchVisiond", "TensorBoardImageHandler")
_SIZES = ("roi_size", "spatial_size", "patch_size", "k_divisible")


def shrunk(config: Mapping[str, Any], recipe: Recipe, epochs: int) -> Overrides:
    """Overrides that make a config small: window, batch, workers, cases, epochs; ids -> values."""
    found: Overrides = {}

    def look(path: str, key: str, value: Any, owner: Any) -> None:
        target = str(owner.get("_target_", "")) if isinstance(owner, dict) else ""
        if key in _SIZES and isinstance(value, list) and all(isinstance(v, int) for v in value):
            if min(value) > recipe.side:
                found[path] = [recipe.side] * len(value)
        elif key == "num_workers" and isinstance(value, int):
            found[path] = 0
        elif key == "persistent_workers":
            found[path] = False
        elif key in ("num_samples", "interval", "val_interval") and isinstance(value, int):
            found[path] = 1
        elif key == "batch_size" and isinstance(value, int):
            found[path] = min(value, 2)
        elif key == "max_epochs" and target.endswith("Trainer"):
            found[path] = epochs
        elif target.endswith(_OF_TORCHVISION) and key == "_target_":
            found[f"{path.rpartition('::')[0]}::_disabled_"] = True
        elif isinstance(value, str) and ("[-9:]" in value or "[-10:]" in value):
            found[path] = value.replace("[-9:]", "[-2:]").replace("[-10:]", "[-2:]")
        elif isinstance(value, str) and ("[:-9]" in value or "[:-10]" in value):
            found[path] = value.replace("[:-9]", "[:-2]").replace("[:-10]", "[:-2]")
        elif isinstance(value, (dict, list)):
            walk(path, value)

    def walk(path: str, value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            look(f"{path}::{key}" if path else str(key), str(key), inner, value)

    walk("", dict(config))
    return found
