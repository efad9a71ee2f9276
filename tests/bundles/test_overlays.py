"""Overlays on evaluation: several processes, and what the check reads."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from helpers.harness import initialised, labelled_phantoms, refused
from helpers.ranks import on_ranks
from helpers.zoo import BUNDLES, PHANTOM_KIND, each_bundle
from perforated_monai.bundle.check.run import check_bundle
from perforated_monai.files import hash_of

EVALUATION = ("train.json", "evaluate.json")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five labelled phantoms of each kind, with a manifest."""
    found = {}
    for name, kind in PHANTOM_KIND.items():
        shape = {"tumour": (24, 24, 24), "glioma": (32, 32, 20)}.get(kind)
        found[name] = labelled_phantoms(tmp_path_factory.mktemp(name) / "data", 5, kind, shape)
    return found


def evaluate(bundle: Path, data: Path, out: Path, *overlays: str, **changes: object) -> None:
    changes = {"part": "all", "manifest": str(data / "manifest.json")} | changes
    if not overlays:
        changes["device"] = "$torch.device('cpu')"
    made = initialised(bundle, [*EVALUATION, *overlays], data, out, **changes)
    made.run()
    made.finalize()


@each_bundle
def test_two_processes_write_the_table_of_one(
    bundle: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    data, one, two = datasets[bundle.name], tmp_path / "one", tmp_path / "two"
    evaluate(bundle, data, one)

    def work(rank: int) -> None:
        out = two if rank == 0 else two / "rank1"
        settings = {"backend": "gloo", "process_group_timeout": 120}
        evaluate(bundle, data, out, "multi_gpu_evaluate.yaml", **settings)

    assert on_ranks(work) == [0, 0]
    for name in ("cases.csv", "cases.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    assert list((two / "rank1").iterdir()) == []
    rows = list(csv.DictReader((one / "cases.csv").open()))
    assert [row["case"] for row in rows] == [*(f"phantom_{k:03d}" for k in range(5)), "mean"]
    about = json.loads((one / "cases.json").read_text())
    assert (about["cases"], about["part"], about["fold"]) == (5, "all", 0)
    assert about["model_sha256"] == hash_of(bundle / "models" / "model.pt")
    assert about["manifest_sha256"] == hash_of(data / "manifest.json")
    assert str(tmp_path) not in (one / "cases.json").read_text()


def test_several_processes_without_torchrun_are_refused(datasets, tmp_path) -> None:
    bundle = BUNDLES[0]
    with refused("needs torchrun"):
        evaluate(bundle, datasets[bundle.name], tmp_path / "out", "multi_gpu_evaluate.yaml")


@each_bundle
@pytest.mark.parametrize(
    ("overlay", "old", "new"),
    [
        ("multi_gpu_evaluate", "validate::dataloader::", "validate::dataloadr::"),
        ("multi_gpu_evaluate", "@process_group_timeout", "@process_timeout"),
        ("multi_gpu_train", "train::dataloader::sampler::rank", "train::dataloader::sampler::rnk"),
    ],
)
def test_the_check_reads_an_overlay_on_what_it_is_merged_on(
    bundle: Path, overlay: str, old: str, new: str, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / bundle.name))
    file = copy / "configs" / f"{overlay}.yaml"
    assert file.name not in "".join(f.text() for f in check_bundle(copy))
    text = file.read_text()
    changed = text.replace(old, new)
    assert changed != text and yaml.safe_load(changed)
    file.write_text(changed)
    said = [f.text() for f in check_bundle(copy) if file.name in f.text()]
    assert said and any(new.lstrip("@") in line for line in said)
