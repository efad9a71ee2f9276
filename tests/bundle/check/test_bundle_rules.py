"""Every rule on bundles finds what breaks it, in a copy of a shipped bundle that breaks none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.tiny import LAYER, spec_of
from perforated_monai import UserError, build_network
from perforated_monai.bundle.check.run import BUNDLE_RULES, check_bundle
from perforated_monai.files import sha256
from perforated_monai.rules import ERROR, NOTE, WARNING

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "bundles" / "hippocampus_mri_dendritic"
SPEC = spec_of({LAYER: {"count": 1, "kind": "copy", "activation": "relu"}})
TRAIN, INFERENCE = "configs/train.json", "configs/inference.json"
METADATA, MODEL = "configs/metadata.json", "models/model.pt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The shipped bundle with a small network and its weights."""
    root = shutil.copytree(SHIPPED, tmp_path_factory.mktemp("bundle") / "bundle")
    definition = {"_target_": "perforated_monai.build_network", "spec": SPEC}
    for name in ("train", "evaluate", "inference"):
        edit(root, f"configs/{name}.json", network_def=definition)
    (root / "models").mkdir(exist_ok=True)
    torch.save(build_network(SPEC).state_dict(), root / MODEL)
    record = {**SPEC, "model_sha256": sha256((root / MODEL).read_bytes())}
    (root / "models/network.json").write_text(json.dumps(record))
    return root


@pytest.fixture
def bundle(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "bundle")


def edit(root: Path, file: str, **changes: object) -> str:
    content = json.loads((root / file).read_text())
    (root / file).write_text(json.dumps(content | changes, indent=2))
    return file


def change(root: Path, file: str, work: Callable[[dict], object]) -> str:
    content = json.loads((root / file).read_text())
    work(content)
    (root / file).write_text(json.dumps(content, indent=2))
    return file


def replace_text(root: Path, file: str, old: str, new: str) -> str:
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new, 1))
    return file


def write(root: Path, file: str, text: str) -> str:
    (root / file).write_text(text)
    return file


def remove(root: Path, file: str) -> str:
    (root / file).unlink()
    return ""


def large_files(root: Path, **changes: str) -> str:
    entry = {"url": "https://example.org/x", "hash_val": "0" * 32, "hash_type": "md5"} | changes
    (root / "large_files.yml").write_text(json.dumps({"large_files": [entry]}))
    return "large_files.yml"


def other_weights(root: Path) -> str:
    state = build_network(SPEC).state_dict()
    state.pop(next(iter(state)))
    torch.save(state, root / MODEL)
    record = {"model_sha256": sha256((root / MODEL).read_bytes())}
    edit(root, "models/network.json", **record)
    return MODEL


def other_bytes(root: Path) -> str:
    with (root / MODEL).open("ab") as file:
        file.write(b"x")
    return MODEL


def unbuildable(root: Path) -> str:
    spec = {**SPEC, "format": 99}
    return edit(
        root, INFERENCE, network_def={"_target_": "perforated_monai.build_network", "spec": spec}
    )


def other_output(root: Path) -> str:
    return change(
        root, METADATA, lambda m: m["network_data_format"]["outputs"]["pred"].update(num_channels=7)
    )


def manifest_of_the_future(root: Path) -> str:
    return edit(root, "configs/hippocampus_msd.json", schema_version=99)


BREAKS = {
    "bundle-files": [lambda r: remove(r, "LICENSE"), lambda r: remove(r, MODEL)],
    "whole-export": [lambda r: (r / ".export-ready").mkdir() or ""],
    "config-syntax": [
        lambda r: replace_text(r, TRAIN, '"epochs"', "epochs"),
        lambda r: write(r, "configs/compressed.yaml", "a: [1, 2\nb: 3\n"),
        lambda r: write(r, "configs/twice.json", '{"seed": 1, "seed": 2}'),
        lambda r: write(r, "configs/list.json", "[1]"),
    ],
    "required-ids": [
        lambda r: change(r, INFERENCE, lambda c: c.pop("evaluator")),
        lambda r: change(r, TRAIN, lambda c: c["train"].pop("inferer")),
    ],
    "property-references": [
        lambda r: change(r, TRAIN, lambda c: c["train"]["trainer"].update(postprocessing="@loss")),
    ],
    "references": [
        lambda r: replace_text(r, TRAIN, '"@learning_rate"', '"@learning_rat"'),
        lambda r: write(r, "configs/more.yaml", 'learning_rate: "$@epoch * 0.1"\n'),
    ],
    "override-keys": [
        lambda r: write(r, "configs/more.yaml", "learning_rat: 0.1\n"),
        lambda r: write(r, "configs/more.yaml", "train::trainer::max_epoch: 3\n"),
    ],
    "metadata-schema": [
        lambda r: change(r, METADATA, lambda m: m.pop("task")),
        lambda r: edit(r, METADATA, version=1),
        lambda r: change(r, METADATA, lambda m: m["network_data_format"].pop("inputs")),
        lambda r: change(
            r, METADATA, lambda m: m["network_data_format"]["inputs"]["image"].pop("dtype")
        ),
    ],
    "large-files": [
        lambda r: large_files(r, path="../outside.pt"),
        lambda r: large_files(r, path="models/big.pt", url="file:///etc/passwd"),
        lambda r: large_files(r, path="models/big.pt", hash_type="crc32"),
        lambda r: write(r, "large_files.yml", "large_files: [{path: models/big.pt}]\n"),
        lambda r: large_files(r, path=MODEL) and MODEL,
    ],
    "changelog": [lambda r: edit(r, METADATA, version="9.9.9")],
    "bundle-manifest": [manifest_of_the_future],
    "network-def": [
        lambda r: edit(r, TRAIN, network_def={"_target_": "UNet", "spatial_dims": 3}),
    ],
    "network": [unbuildable],
    "weights": [other_weights],
    "model-hash": [other_bytes],
    "output-shape": [
        other_output,
        lambda r: change(
            r,
            METADATA,
            lambda m: m["network_data_format"]["inputs"]["image"].update(
                spatial_shape=[33, 48, 32]
            ),
        ),
    ],
    "roi-strides": [
        lambda r: edit(r, TRAIN, roi_size=[32, 47, 32]),
        lambda r: edit(r, INFERENCE, val_roi_size=[31, 48, 32]),
    ],
}
CASES = [(name, k) for name, changes in BREAKS.items() for k in range(len(changes))]


def test_every_bundle_rule_is_tested():
    assert set(BREAKS) == {rule.name for rule in BUNDLE_RULES}


def test_a_whole_bundle_has_no_finding(whole):
    assert [finding.text() for finding in check_bundle(whole)] == []


@pytest.mark.parametrize(("name", "k"), CASES, ids=[f"{name}-{k}" for name, k in CASES])
def test_what_is_broken_is_named_with_rule_value_and_cure(name, k, bundle):
    file = BREAKS[name][k](bundle)
    findings = check_bundle(bundle)
    found = next(finding for finding in findings if finding.rule == name)
    assert found.file == file
    assert found.message and found.value and found.cure
    assert str(bundle) not in found.text()


def test_errors_of_syntax_name_the_line(bundle):
    replace_text(bundle, TRAIN, '"epochs"', "epochs")
    write(bundle, "configs/compressed.yaml", "a: 1\nb: [1, 2\nc: 3\n")
    values = [f.value for f in check_bundle(bundle) if f.rule == "config-syntax"]
    assert len(values) == 2 and all("line" in value for value in values)
    assert "line 3" in "".join(values)


def test_all_findings_are_listed_at_once(bundle):
    other_bytes(bundle)
    edit(bundle, METADATA, version="9.9.9")
    edit(bundle, TRAIN, roi_size=[32, 47, 32])
    rules = {finding.rule for finding in check_bundle(bundle)}
    assert rules >= {"model-hash", "changelog", "roi-strides"}


def test_weights_that_lie_elsewhere_are_no_error(bundle):
    remove(bundle, MODEL)
    large_files(bundle, path=MODEL)
    (found,) = check_bundle(bundle)
    assert (found.rule, found.severity) == ("bundle-files", WARNING)
    assert "download_large_files" in found.cure


@pytest.mark.parametrize("base", [{"name": "HoVerNet"}, {"name": "SENet154", "pretrained": True}])
def test_a_network_that_can_fetch_weights_is_not_built(base, bundle):
    spec = {"format": 1, "base": base, "dendrites": {}}
    definition = {"_target_": "perforated_monai.build_network", "spec": spec}
    edit(bundle, INFERENCE, network_def=definition)
    found = next(f for f in check_bundle(bundle) if f.rule == "network")
    assert found.severity == NOTE and base["name"] in found.value


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": [4, 10**9]},
        {"num_res_units": 10**6},
        {"channels": [10**6] * 4, "strides": [1] * 3},
    ],
)
def test_a_network_that_asks_for_too_much_costs_nothing(changes, bundle):
    spec = {"format": 1, "base": SPEC["base"] | changes, "dendrites": {}}
    definition = {"_target_": "perforated_monai.build_network", "spec": spec}
    edit(bundle, INFERENCE, network_def=definition)
    assert {"network", "weights"} & {f.rule for f in check_bundle(bundle) if f.severity == ERROR}


def test_what_the_zoo_writes_is_no_mistake(bundle):
    """The older separator in references, a list of cases, and the older schema of metadata."""
    text = (bundle / TRAIN).read_text().replace('"@train::handlers"', '"@train#handlers"')
    assert "@train#handlers" in text
    (bundle / TRAIN).write_text(text)
    cases = {"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}], "validation": []}
    write(bundle, "configs/datalist.json", json.dumps(cases))
    assert check_bundle(bundle) == []

    def older(metadata: dict) -> None:
        metadata["schema"] = metadata["schema"].replace("20240725", "20220324")
        packages = metadata.pop("required_packages_version")
        metadata["optional_packages_version"] = packages

    change(bundle, METADATA, older)
    assert check_bundle(bundle) == []
    change(bundle, METADATA, lambda m: m.pop("optional_packages_version"))
    (found,) = check_bundle(bundle)
    assert found.value == "no optional_packages_version"


def test_a_mistyped_key_gets_the_nearest_name(bundle):
    write(bundle, "configs/more.yaml", "learning_rat: 0.1\n")
    (found,) = [f for f in check_bundle(bundle) if f.rule == "override-keys"]
    assert "learning_rate" in found.cure


def test_keys_that_something_uses_and_arguments_of_components_are_no_mistakes(bundle):
    text = "bonus: 2\nlearning_rate: '$0.1 * @bonus'\ntrain::trainer::non_blocking: true\n"
    write(bundle, "configs/more.yaml", text)
    assert check_bundle(bundle) == []


def test_no_expression_runs(bundle, tmp_path):
    spy = f"$open({str(tmp_path / 'ran')!r}, 'w').close()"
    edit(bundle, TRAIN, initialize=[spy], spy=spy, imports=[spy])
    edit(bundle, INFERENCE, network_def={"_target_": "UNet", "spatial_dims": spy})
    rules = {finding.rule: finding.severity for finding in check_bundle(bundle)}
    assert rules["network"] == NOTE
    assert not (tmp_path / "ran").exists()


def test_code_of_a_foreign_bundle_is_not_built(bundle):
    edit(bundle, INFERENCE, network_def={"_target_": "scripts.net.Net", "channels": 3})
    found = next(f for f in check_bundle(bundle) if f.rule == "network")
    assert found.severity == NOTE and "scripts.net.Net" in found.value


def test_a_network_of_monai_is_built_and_compared(bundle):
    base = {k: v for k, v in SPEC["base"].items() if k != "name"}
    for name in ("train", "evaluate", "inference"):
        edit(bundle, f"configs/{name}.json", network_def={"_target_": "UNet", **base})
    assert {f.rule for f in check_bundle(bundle)} == {"weights"}  # it has no dendrite's tensors
    plain = build_network({"format": 1, "base": SPEC["base"], "dendrites": {}})
    torch.save(plain.state_dict(), bundle / MODEL)
    edit(bundle, "models/network.json", model_sha256=sha256((bundle / MODEL).read_bytes()))
    assert check_bundle(bundle) == []


def test_a_folder_without_configs_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be a bundle"):
        check_bundle(tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "bundles").glob("*/")), ids=lambda p: p.name)
def test_shipped_bundles_have_no_error(path):
    errors = [finding.text() for finding in check_bundle(path) if finding.severity == ERROR]
    assert errors == []
