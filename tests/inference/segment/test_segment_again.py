"""A second run over the same scans: what is resumed, refused and replaced."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.segment_bundle import (
    blocks,
    change,
    make_bundle,
    read,
    segment,
)
from perforated_monai.errors import UserError
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.predictor import mirrored
from perforated_monai.inference.segment.reduce import ConfidenceHistogram
from perforated_monai.inference.segment.table import measure_structures


def test_mirroring_averages_and_is_symmetric(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    segmenter = Segmenter(bundle, device="cpu", tta=True)
    x = torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    plain = Segmenter(bundle, device="cpu").predict
    expected = (plain(x) + plain(x.flip(2)).flip(2)) / 2
    assert torch.allclose(segmenter.predict(x), expected, atol=1e-6)
    assert not torch.allclose(segmenter.predict(x), plain(x), atol=1e-3)
    both = mirrored(plain, (0, 2))
    for dims in ([2], [4], [2, 4]):
        assert torch.allclose(both(x.flip(dims)).flip(dims), both(x), atol=1e-5)
    segment_config = read(bundle, "metadata.json")["segment"] | {"mirror_axes": []}
    change(bundle, "metadata.json", segment=segment_config)
    with pytest.raises(UserError, match="mirror_axes"):
        Segmenter(bundle, device="cpu", tta=True)


def test_empty_borders_are_skipped_where_the_bundle_says_so(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    config = read(tmp_path / "b", "metadata.json")["segment"] | {"skip_empty_border": True}
    change(tmp_path / "b", "metadata.json", segment=config)
    values = np.full((40, 20, 44), -1, "f4")
    values[22:34, 3:13, 5:13] = np.round(blocks((12, 10, 8)))
    skipping, whole = (Segmenter(path, device="cpu") for path in (tmp_path / "b", bundle))
    seen: list[int] = []
    predict = skipping.predict
    skipping.predict = lambda x: (seen.append(len(x)), predict(x))[1]
    found = skipping(values, np.eye(4))
    assert np.array_equal(found.labels, whole(values, np.eye(4)).labels)
    assert sum(seen) == 1  # of the 24 windows of the whole volume
    nearly = np.zeros((20, 20, 20))
    nearly[0, 0, 0] = 0.1
    empty = skipping(nearly, np.eye(4))
    assert not empty.labels.any() and empty.confidence.mean is None


def test_one_segmenter_serves_several_threads(bundle):
    segmenter = Segmenter(bundle, device="cpu")
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(4):
            values = blocks((12, 11, 9), seed=10 * seed + k)
            affine = np.diag([(-1) ** seed, 1, (-1) ** k, 1])
            if not np.array_equal(segmenter(values, affine).labels, np.round(values)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_library_refuses_what_it_cannot_segment(segmenter):
    for array, affine, words in (
        (np.zeros((5, 5)), np.eye(4), "array must be"),
        (np.random.default_rng(0).random((2, 5, 5, 5)), np.eye(4), "needs 1 channel"),
        (np.zeros((5, 5, 5)), np.eye(4), "more than one value"),
        (np.full((5, 5, 5), np.nan), np.eye(4), "finite"),
        (np.zeros((5, 5, 5)), np.zeros((4, 4)), "singular"),
        (np.zeros((5, 5, 5)), np.eye(3), "4 × 4"),
        (np.zeros((5, 5, 5), complex), np.eye(4), "real numbers"),
    ):
        with pytest.raises(UserError, match=words):
            segmenter(array, affine)


def test_preview_shows_the_structure_and_is_the_same_every_time(scans, segmenter, tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        assert segment(scans, tmp_path / name, segmenter, preview=True).exit_code == 0
    first = tmp_path / "a" / "0_preview.png"
    assert first.read_bytes() == (tmp_path / "b" / "0_preview.png").read_bytes()
    pixels = np.asarray(Image.open(first).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)):  # outlines of both structures
        assert (np.abs(pixels - colour).max(1) < 20).sum() > 100
    first.unlink()
    assert segment(scans, tmp_path / "a", segmenter, preview=True, resume=True).kept == 2
    assert first.is_file()


def test_planes_of_a_preview_have_one_scale(tmp_path):
    from PIL import Image

    from perforated_monai.inference.segment.preview import write_preview

    # A cube of 20 mm, its voxels of three sizes, in a volume of three extents.
    labels = np.zeros((30, 20, 25), np.uint8)
    labels[5:15, 5:15, 4:8] = 1
    affine = np.diag([2, 2, 5, 1])
    write_preview(tmp_path / "p.png", labels * 0.0, labels, affine, {1: "cube"}, "case")
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    outline = np.abs(pixels - (0xE6, 0x9F, 0x00)).max(-1) < 20
    outline[420:] = False  # the legend
    columns = np.flatnonzero(outline.any(0))
    planes = np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1)
    widths = [int(p[-1] - p[0]) for p in planes]
    heights = [int(np.ptp(np.flatnonzero(outline[:, p].any(1)))) for p in planes]
    assert len(planes) == 3 and np.ptp(widths + heights) <= 2 and min(widths) > 40


def test_picture_of_the_docs_is_what_the_command_makes(repo, tmp_path):
    from PIL import Image

    from perforated_monai.data.phantoms import make_phantoms

    committed = repo / "bundles" / "hippocampus_mri_dendritic"
    phantoms = make_phantoms(tmp_path / "phantoms", cases=2, seed=4)
    assert segment(phantoms / "imagesTr", tmp_path / "out", committed, preview=True).exit_code == 0
    made, shown = (
        np.asarray(Image.open(path).convert("RGB")).astype(int)
        for path in (
            tmp_path / "out" / "phantom_000_preview.png",
            committed / "docs" / "segment_preview.png",
        )
    )
    assert made.shape == shown.shape
    assert np.mean(np.abs(made - shown).max(-1) > 40) < 0.01  # other fonts, no other outlines


def test_measured_structures_of_a_known_mask():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    labels[3, 3, 3] = 1  # touches by a corner
    labels[6:8, 6, 6] = 1
    labels[5, 0:3, 0] = 3
    found = measure_structures(labels, np.diag([2, 1, 0.5, 1]), {1: "a", 2: "b", 3: "c"})
    assert [(s.name, s.volume_ml, s.components) for s in found] == [
        ("a", 0.011, 2),
        ("b", 0.0, 0),
        ("c", 0.003, 1),
    ]


def test_confidence_is_that_of_the_foreground():
    logits = torch.randn((3, 20, 20, 20), generator=torch.Generator().manual_seed(0)) * 3
    labels = logits.argmax(0, keepdim=True)
    parts = ConfidenceHistogram()
    for k in range(0, 20, 3):
        parts.add(logits[:, k : k + 3], labels[:, k : k + 3], sigmoid=False)
    values = torch.softmax(logits, 0).amax(0)[labels[0] > 0].double()
    assert parts.confidence.mean == pytest.approx(float(values.mean()), abs=1e-6)
    assert parts.confidence.lowest_decile == pytest.approx(float(values.quantile(0.1)), abs=3e-4)


def test_damaged_bundles_are_refused_by_file(tmp_path, bundle):
    def broken(name: str) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / name))

    folder = broken("weights")
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(UserError, match=r"models/model\.pt"):
        Segmenter(folder)
    folder = broken("json")
    (folder / "configs" / "inference.json").write_text("{")
    with pytest.raises(UserError, match=r"inference\.json cannot be read: line 1: no JSON"):
        Segmenter(folder)
    folder = broken("network")
    change(folder, "inference.json", network_def={})
    with pytest.raises(UserError, match="must have network_def"):
        Segmenter(folder)
    folder = broken("loading")
    steps = read(folder, "inference.json")["preprocessing"]["transforms"][1:]
    change(folder, "inference.json", preprocessing={"_target_": "Compose", "transforms": steps})
    with pytest.raises(UserError, match="must begin with LoadImaged"):
        Segmenter(folder)
    folder = broken("inverse")
    steps = read(folder, "inference.json")["postprocessing"]["transforms"][:1]
    change(folder, "inference.json", postprocessing={"_target_": "Compose", "transforms": steps})
    with pytest.raises(UserError, match="input's grid"):
        Segmenter(folder)(blocks(), np.diag([-1, 1, 1, 1]))
