"""Engines of ``segment``: their masks, the check against torch, the choice, and the turns."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.segment_bundle import blocks, labels_of, make_rounding_bundle, save, segment
from perforated_monai.commands.main import main
from perforated_monai.errors import UserError
from perforated_monai.inference.engines import ENGINES
from perforated_monai.inference.formats import Source, missing_packages, write_format
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.cores import Turns


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


def test_auto_measures_and_takes_an_engine_that_agrees(bundle, scans, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first = Segmenter(bundle, engine="auto", device="cpu")
    assert segment(scans, tmp_path / "a", first).exit_code == 0
    chosen = first.settings["engine"]
    assert chosen in ENGINES and first.reason.startswith(f"{chosen}: ")
    assert "times as fast as torch" in first.reason and "windows of 3 scans" in first.reason
    masks_are_right(tmp_path / "a")
    assert not list(tmp_path.glob("home/**/*perforated*"))  # nothing is kept for the next time


def test_a_model_of_other_weights_is_refused(bundle, scans, tmp_path, capsys):
    if missing := missing_packages(ENGINES["onnxruntime"].packages):
        pytest.skip(f"engine onnxruntime needs {', '.join(missing)}")
    stale = make_rounding_bundle(tmp_path / "stale")
    network = Segmenter(stale, device="cpu").bundle.network()
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
