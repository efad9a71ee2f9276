"""Engines of ``segment``: their masks, the check against torch, the choice, and the turns."""

from __future__ import annotations

import csv
import gc
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.segment_bundle import (
    blocks,
    change,
    labels_of,
    make_bundle,
    make_rounding_bundle,
    save,
    save_weights,
    segment,
)
from perforated_monai import build_network
from perforated_monai.commands.main import main
from perforated_monai.errors import UserError
from perforated_monai.inference.by_rule import LOADERS, candidates
from perforated_monai.inference.engines import ENGINES
from perforated_monai.inference.formats import Source, missing_packages, write_format
from perforated_monai.inference.segment import Segmenter, opened, predictor
from perforated_monai.inference.segment.cores import Turns

# The shipped network's kind, tiny.
MOBILE = {
    "name": "MobileUNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
    "expansion": 2,
    "reduction": 2,
    "blocks": 1,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Its labels are the rounded values, whatever the precision."""
    return make_rounding_bundle(tmp_path_factory.mktemp("engines") / "b")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for k in range(3):
        save(folder / f"{k}.nii.gz", blocks((24, 20, 18), seed=k))
    return folder


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Sessions end their threads here: in a test's forked child, threads are not there to join."""
    yield
    gc.collect()


def masks_are_right(output: Path) -> None:
    for k in range(3):
        expected = np.round(blocks((24, 20, 18), seed=k))
        assert np.array_equal(labels_of(output / f"{k}_seg.nii.gz"), expected)


SLOW = {"onnxruntime": pytest.mark.slow}  # writing model.onnx; test_engines.py runs it


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=SLOW.get(n, ())) for n in ENGINES if n != "torch"],
)
def test_every_engine_gives_the_masks_of_torch(name, bundle, scans, tmp_path):
    if missing := missing_packages(ENGINES[name].packages):
        pytest.skip(f"engine {name} needs {', '.join(missing)}")
    segmenter = Segmenter(bundle, engine=name)
    summary = segment(scans, tmp_path / "out", segmenter)
    assert summary.exit_code == 0
    assert {row["engine"] for row in summary.rows} == {name}
    assert "equal labels with torch float32 on 8 windows of 3 scans" in segmenter.reason
    masks_are_right(tmp_path / "out")


def depthwise_bundle(folder: Path) -> Path:
    """Of the kind of network that auto takes ONNX Runtime for, where OpenVINO is missing."""
    make_bundle(folder)
    spec = {"format": 1, "base": MOBILE, "dendrites": {}}
    torch.manual_seed(0)
    save_weights(folder, build_network(spec).state_dict())
    definition = {"_target_": "perforated_monai.build_network", "spec": spec}
    change(folder, "inference.json", network_def=definition)
    return folder


def test_auto_takes_the_engine_of_the_rule_and_the_table_names_it(scans, tmp_path, monkeypatch):
    """Its masks are those of float32 torch on 99.99 % of voxels, and nothing is kept."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    bundle = depthwise_bundle(tmp_path / "b")
    segmenter = Segmenter(bundle, engine="auto", device="cpu")
    expected = candidates(segmenter.bundle.network, "cpu", one_size=True)[0]
    assert segmenter.settings["engine"] == ("torch" if expected == "torch" else "auto")
    for name, made in (("auto", segmenter), ("torch", Segmenter(bundle, device="cpu"))):
        assert segment(scans, tmp_path / name, made).exit_code == 0
    with (tmp_path / "auto" / "cases.csv").open(newline="") as table:
        assert {row["engine"] for row in csv.DictReader(table)} == {expected}
    masks = [
        np.concatenate([labels_of(m).ravel() for m in sorted((tmp_path / n).glob("*.nii.gz"))])
        for n in ("auto", "torch")
    ]
    assert len(np.unique(masks[1])) > 1
    assert (masks[0] == masks[1]).mean() >= 0.9999
    if expected != "torch":
        assert segmenter.reason.startswith(f"{expected}: ")
        assert "equal labels with torch float32 on 8 windows of 3 scans" in segmenter.reason
    assert not list(tmp_path.glob("home/**/*"))


def test_auto_is_torch_where_no_engine_pays(bundle, tmp_path):
    windowless = depthwise_bundle(tmp_path / "whole")
    change(windowless, "inference.json", val_roi_size=[0, 0, 0])
    assert Segmenter(windowless, engine="auto", device="cpu").settings["engine"] == "torch"
    if missing_packages(["openvino"]):  # no grouped convolution, so no ONNX Runtime either
        assert Segmenter(bundle, engine="auto", device="cpu").predict is not None


@pytest.mark.parametrize("fault", ["refuses", "is wrong"])
def test_auto_passes_over_what_does_not_take_the_network(fault, scans, tmp_path, monkeypatch):
    """An engine that fails, or gives other labels, costs nobody the run: the next one is taken."""

    def refuses(source):
        msg = "no such layer"
        raise RuntimeError(msg)

    def wrong(source):
        return lambda x: source.network(x).flip(1)

    monkeypatch.setattr(predictor, "candidates", lambda *given: ["openvino", "torch"])
    monkeypatch.setitem(LOADERS, "openvino", refuses if fault == "refuses" else wrong)
    segmenter = Segmenter(depthwise_bundle(tmp_path / "b"), engine="auto", device="cpu")
    summary = segment(scans, tmp_path / "out", segmenter)
    assert summary.exit_code == 0
    assert {row["engine"] for row in summary.rows} == {"torch"}
    words = {
        "refuses": "does not take this network (RuntimeError)",
        "is wrong": "of torch's labels",
    }
    assert segmenter.reason.startswith("torch: openvino ") and words[fault] in segmenter.reason


def test_auto_never_reads_a_model_that_lies_in_the_bundle(scans, tmp_path):
    """It may be of other weights: what auto runs is made of the weights it has loaded."""
    bundle = depthwise_bundle(tmp_path / "b")
    (bundle / "models" / "model.onnx").write_bytes(b"of another network")
    segmenter = Segmenter(bundle, engine="auto", device="cpu")
    assert segment(scans, tmp_path / "out", segmenter).exit_code == 0
    if not missing_packages(ENGINES["onnxruntime"].packages):
        assert segmenter.settings["engine"] in ("openvino", "onnxruntime")


def test_the_scans_that_an_engine_was_checked_on_are_read_once(
    bundle, scans, tmp_path, monkeypatch
):
    """Unless a file was changed in between: then it is read again."""
    reading, read = opened.read_nifti, []
    folder = tmp_path / "in"
    shutil.copytree(scans, folder)

    def counted(files, *rest):
        read.append(files[0].name)
        return reading(files, *rest)

    load = Segmenter.load

    def changing(self, first):
        load(self, first)
        save(folder / "1.nii.gz", blocks((24, 20, 18), seed=7))

    monkeypatch.setattr(opened, "read_nifti", counted)
    monkeypatch.setattr(Segmenter, "load", changing)
    summary = segment(folder, tmp_path / "out", Segmenter(bundle, engine="torch-bf16"))
    assert summary.exit_code == 0
    assert sorted(read) == ["0.nii.gz", "1.nii.gz", "1.nii.gz", "2.nii.gz"]
    found = labels_of(tmp_path / "out" / "1_seg.nii.gz")
    assert np.array_equal(found, np.round(blocks((24, 20, 18), seed=7)))


def test_a_model_of_other_weights_is_refused(bundle, scans, tmp_path, capsys):
    if missing := missing_packages(ENGINES["onnxruntime"].packages):
        pytest.skip(f"engine onnxruntime needs {', '.join(missing)}")
    stale = make_rounding_bundle(tmp_path / "stale")
    network = Segmenter(stale, device="cpu").bundle.network
    with torch.no_grad():
        network.get_parameter("model.2.conv.bias").zero_()
    write_format("onnx", Source(stale, network, (1, 16, 16, 16), False))
    arguments = ["segment", str(scans), str(tmp_path / "out"), "--bundle", str(stale)]
    assert main([*arguments, "--engine", "onnxruntime"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "must give 99.0% of torch's labels" in error and "Use --engine torch" in error
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_engines_that_cannot_run_are_refused_at_once(bundle):
    for name, device, words in (
        ("warp", None, "engine must be auto or one of torch, "),
        ("openvino", "cuda:0", "needs a GPU"),
    ):
        if not torch.cuda.is_available():
            with pytest.raises(UserError, match=words):
                Segmenter(bundle, engine=name, device=device)


def test_a_missing_package_names_its_extra(bundle, monkeypatch):
    for name in ("onnxruntime", "openvino", "openvino-bf16"):
        packages = [*ENGINES[name].packages, "a_package_nobody_has"]
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], packages=packages))
        with pytest.raises(UserError, match=r"a_package_nobody_has: pip install 'perforated"):
            Segmenter(bundle, engine=name)


def test_many_workers_give_the_masks_of_one(bundle, scans, tmp_path):
    segmenter = Segmenter(bundle, device="cpu")
    for workers in (1, 2, 5):
        assert segment(scans, tmp_path / "out", segmenter, workers=workers).exit_code == 0
        masks_are_right(tmp_path / "out")
    assert torch.get_num_threads() == Turns(1).all


def test_turns_share_the_cores_and_one_that_is_alone_is_alone():
    turns = Turns(3)
    running: list[int] = []
    seen: list[tuple[bool, int]] = []
    lock = threading.Lock()

    def work(k: int) -> None:
        for step in range(5):
            alone = (k + step) % 4 == 0
            with turns.turn(alone):
                with lock:
                    running.append(k)
                    seen.append((alone, len(running)))
                time.sleep(0.002)
                with lock:
                    running.remove(k)
                    seen.append((alone, len(running) + 1))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turns.end()
    assert len(seen) == 60
    assert {count for alone, count in seen if alone} == {1}
    assert max(count for _, count in seen) in (2, 3)
