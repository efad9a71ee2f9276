"""A stranger's bundle, end to end: overlay, training, a new bundle, masks; its files stay."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from helpers.foreign_bundles import (
    grown_sets,
    train_with_overlay,
    tree_hash,
)
from helpers.grown_foreign import Grown, prepared
from helpers.harness import (
    CPU,
    initialised,
    segment_by_monai,
)
from helpers.segment_bundle import segment
from perforated_monai import build_network, load_weights
from perforated_monai.bundle.check.run import check_bundle
from perforated_monai.bundle.pack import pack_bundle
from perforated_monai.export.new_bundle import export_to_new_bundle
from perforated_monai.growth.trained import load_trained

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")


@pytest.fixture(scope="module")
def exported(grown: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The new bundle of the spleen-style run."""
    source = grown("spleen")
    new = tmp_path_factory.mktemp("new") / "bundle"
    export_to_new_bundle(source.run, source.bundle, new)
    return new


def cases_of(source: Grown, folder: Path) -> Path:
    """What ``segment`` takes: a folder, or a list for several channels."""
    if source.bundle.name != "brats":
        return source.data / "imagesTr"
    images = [str(source.data / "imagesTr" / f"case_0_{c}.nii.gz") for c in range(4)]
    (folder / "cases.json").write_text(json.dumps([{"case": "case_0", "image": images}]))
    return folder / "cases.json"


@pytest.mark.parametrize(
    "style", ["spleen", "brats", "prostate", pytest.param("swin", marks=pytest.mark.slow)]
)
def test_from_overlay_to_masks(style: str, grown: Callable, tmp_path: Path) -> None:
    source = grown(style)
    assert grown_sets(source.run)
    assert tree_hash(source.bundle) == source.before
    record = export_to_new_bundle(source.run, source.bundle, tmp_path / "new")
    assert record["dendrites"]
    assert record["max_abs_difference"] < 1e-4
    summary = segment(cases_of(source, tmp_path), tmp_path / "masks", tmp_path / "new")
    assert {row["status"] for row in summary.rows} == {"done"}
    for row in summary.rows:
        mask = nib.load(tmp_path / "masks" / row["mask"])
        assert mask.shape == (24, 24, 24)
        assert np.allclose(mask.header.get_zooms(), (1, 1, 1.5))
    assert tree_hash(source.bundle) == source.before
    written = {p.relative_to(source.run).parts[0] for p in source.run.rglob("*") if p.is_file()}
    assert "models" in written  # the bundle's own CheckpointSaver went there
    if style == "prostate":
        assert "cache" in written


def test_the_network_is_replaced_wherever_it_is_defined(exported: Path, grown: Callable) -> None:
    record = json.loads((exported / "models" / "network.json").read_text())
    spec = {key: record[key] for key in ("format", "base", "dendrites")}
    before = grown("spleen").bundle / "configs"
    for name in ("train.json", "inference.json"):
        config = json.loads((exported / "configs" / name).read_text())
        assert config.pop("network_def")["spec"] == spec
        source = json.loads((before / name).read_text())
        del source["network_def"]
        assert config == source
    # An override of train.json that does not define a network stays as it is.
    assert (exported / "configs" / "evaluate.json").read_text() == (
        before / "evaluate.json"
    ).read_text()
    metadata = json.loads((exported / "configs" / "metadata.json").read_text())
    assert metadata["version"] == "0.1.1" and "0.1.1" in metadata["changelog"]
    best = load_trained(grown("spleen").run).best
    assert metadata["eval_metrics"]["mean_dice"] == round(best["dice"], 4)


def test_the_new_bundle_passes_the_check_and_packs(exported: Path, tmp_path: Path) -> None:
    assert [f.line() for f in check_bundle(exported)] == []
    packed = pack_bundle(exported, tmp_path / "new.zip")
    with zipfile.ZipFile(packed.file) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert {"models/model.pt", "configs/train.json", "perforated_monai/networks/build.py"} <= names


def test_the_new_bundle_is_the_trained_network(exported: Path, grown: Callable) -> None:
    trained = load_trained(grown("spleen").run)
    spec = json.loads((exported / "models" / "network.json").read_text())
    network = load_weights(build_network(spec), exported / "models" / "model.pt").eval()
    assert spec["dendrites"]
    x = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), trained.settings():
        torch.testing.assert_close(network(x), trained.network(x), rtol=0, atol=1e-5)


def test_monai_evaluates_and_segments_with_the_new_bundle(
    exported: Path, grown: Callable, tmp_path: Path
) -> None:
    """The zoo's own way: evaluate.json over train.json, and inference.json, weights strict."""
    data = grown("spleen").data
    initialised(exported, ["train.json", "evaluate.json"], data, tmp_path, device=CPU).run()
    segment_by_monai(exported, data / "imagesTr", tmp_path)
    assert (tmp_path / "metrics.csv").is_file()
    assert len(list(tmp_path.rglob("*_seg.nii.gz"))) == 5


def test_yaml_stays_yaml(grown: Callable, tmp_path: Path) -> None:
    source = grown("prostate")
    file = tmp_path / "copy" / "configs" / "inference.yaml"
    shutil.copytree(source.bundle, tmp_path / "copy")
    commented = "# What a radiologist should know.\n" + file.read_text()
    file.write_text(commented.replace("network_def:", "# The network.\nnetwork_def:"))
    export_to_new_bundle(source.run, tmp_path / "copy", tmp_path / "new")
    names = {p.name for p in (tmp_path / "new" / "configs").iterdir()}
    assert names == {p.name for p in (source.bundle / "configs").iterdir()}
    text = (tmp_path / "new" / "configs" / "inference.yaml").read_text()
    assert text.startswith("# What a radiologist should know.\n") and "# The network.\n" in text
    before, after = yaml.safe_load(commented), yaml.safe_load(text)
    assert before.pop("network_def")["_target_"] == "UNet"
    assert after.pop("network_def")["_target_"] == "perforated_monai.build_network"
    assert before == after


def test_the_definition_may_have_another_name(tmp_path: Path) -> None:
    """``net`` defines the network: it becomes a reference to ``network_def``."""
    bundle, data = prepared(tmp_path, "spleen")
    for name in ("train.json", "inference.json"):
        file = bundle / "configs" / name
        text = file.read_text().replace("network_def", "net")
        file.write_text(text)
    train_with_overlay(bundle, data, tmp_path / "run")
    export_to_new_bundle(tmp_path / "run", bundle, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "configs" / "inference.json").read_text())
    assert config["net"] == "@network_def"
    assert config["network_def"]["spec"]["dendrites"]
    summary = segment(data / "imagesTr", tmp_path / "masks", tmp_path / "new")
    assert not summary.failed


def test_former_weights_do_not_come_back(grown: Callable, tmp_path: Path) -> None:
    source = grown("spleen")
    copy = tmp_path / "copy"
    shutil.copytree(source.bundle, copy)
    for name in ("model.ts", "model_trt.ts", "labels.json"):
        (copy / "models" / name).write_text(name)
    entries = [
        {"path": f"models/{name}", "url": "https://example.org/x", "hash_val": "", "hash_type": ""}
        for name in ("model.pt", "model.ts", "labels.json")
    ]
    shutil.copytree(source.run, copy / "runs" / "another")  # of no use to whoever gets the bundle
    (copy / "large_files.yml").write_text(yaml.safe_dump({"large_files": entries}))
    export_to_new_bundle(source.run, copy, tmp_path / "new")
    kept = yaml.safe_load((tmp_path / "new" / "large_files.yml").read_text())["large_files"]
    assert [e["path"] for e in kept] == ["models/labels.json"]
    found = {p.name for p in (tmp_path / "new" / "models").iterdir()}
    assert found == {"model.pt", "network.json", "parity.json", "labels.json"}
    assert not [p for p in (tmp_path / "new" / "runs").rglob("*") if p.is_file()]
