"""Study files: what is refused before any training, and what the arms lay over train.json."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.harness import BUNDLE, refused
from perforated_monai.commands.main import main
from perforated_monai.commands.study_run import Wanted, _trials, run
from perforated_monai.study.arms import ARMS, networks_of
from perforated_monai.study.equal_size import resolved_definition, wider_channels
from perforated_monai.study.results import claim
from perforated_monai.study.runner import trials_of
from perforated_monai.study.study_file import load_study
from perforated_monai.study.trial import Places, Trial
from perforated_monai.study.trial_config import overlay

GOOD: dict[str, Any] = {
    "format": 1,
    "bundle": "hippocampus_mri_dendritic",
    "networks": ["width4"],
    "arms": ["base", "dendrites"],
    "seeds": [0, 1],
    "folds": [0],
    "budget": {"epochs": 4},
    "metrics": ["dice"],
}


@pytest.fixture
def write(tmp_path: Path):
    """``write(**changes)``: a study file beside a copy of the bundle's configs."""
    root = tmp_path / BUNDLE.name
    shutil.copytree(BUNDLE / "configs", root / "configs")

    def make(**changes: Any) -> Path:
        file = root / "studies" / "small.yaml"
        file.parent.mkdir(exist_ok=True)
        content = {k: v for k, v in (GOOD | changes).items() if v is not None}
        file.write_text(yaml.safe_dump(content))
        return file

    return make


def wanted(file: Path, folder: Path) -> Wanted:
    """``study run`` of a file, with data and results in a folder."""
    return Wanted(file=str(file), dataset_dir=str(folder), results=str(folder / "results"))


def test_a_good_file(write) -> None:
    study = load_study(write())
    assert study.name == "small"
    assert [t.id for t in trials_of(study)] == [
        f"width4-{arm}-fold0-seed{seed}" for seed in (0, 1) for arm in ("dendrites", "base")
    ]


def test_every_committed_study_is_good(repo: Path) -> None:
    files = sorted(repo.glob("bundles/*/studies/*.yaml"))
    assert len(files) >= 4
    for file in files:
        assert load_study(file).seeds


BAD = {
    "key": ({"seed": [1]}, "'seed' is none of the known keys. Did you mean: seeds"),
    "arm": ({"arms": ["base", "dendrite"]}, "'dendrite' is none of the known arms.*dendrites"),
    "metric": ({"metrics": ["dice", "hd96"]}, "'hd96' is none of the known metrics.*hd95"),
    "metric order": ({"metrics": ["nsd"]}, "must be dice"),
    "network": ({"networks": ["width5"]}, "'width5' is none of the known networks"),
    "no seed": ({"seeds": []}, "seeds must be a list of distinct whole numbers.*at least one"),
    "seed twice": ({"seeds": [1, 1]}, "seeds must be"),
    "truth as seed": ({"seeds": [True]}, "seeds must be"),
    "fold": ({"folds": [5]}, "folds must be .* from 0 to 4"),
    "budget": ({"budget": {"epochs": 0}}, "budget must be"),
    "budget word": ({"budget": 7}, "budget must be"),
    "missing": ({"budget": None}, "must have budget"),
    "format": ({"format": 2}, "format must be 1; got 2"),
    "bundle": ({"bundle": "other"}, "bundle must be the folder that holds studies"),
    "no leader": ({"arms": ["base", "wide"]}, "arm wide follows the arm dendrites"),
    "growth": ({"growth": {"patients": 3}}, "'patients' is no dendrite setting.*patience"),
    "growth of an arm": ({"growth": {"activation": "relu"}}, "growth cannot hold activation"),
    "setting": ({"settings": {"learning_rat": 1}}, "learning_rat is no key.*learning_rate"),
    "inner": ({"settings": {"train::trainer::max_epoch": 1}}, "max_epoch is no key"),
    "owned": ({"settings": {"epochs": 3}}, "the study sets it"),
    "spacing": (
        {
            "settings": {"train::deterministic_transforms::2::pixdim": [1.0, 1.0, 3.0]},
            "metrics": ["dice", "hd95"],
        },
        "hd95 is in mm only where .* pixdim .1.0, 1.0, 3.0.",
    ),
    "variant's setting": (
        {"variants": {"thin": {"rank": 2}}},
        "variants: thin: rank belongs to kind low_rank",
    ),
    "variant without a limit": (
        {"variants": {"thin": {"layers": "auto"}}},
        "thin: layers .auto.: layers are no longer chosen",
    ),
    "variant's name": ({"variants": {"branch": {}}}, "a name of its own.*'branch'"),
    "variant's path": ({"variants": {"../x": {}}}, "a name of its own.*'../x'"),
    "variants": ({"variants": ["thin"]}, "variants must map names"),
    "pair": ({"compare": [["base", "thin"]]}, "pairs .*got .'base', 'thin'."),
    "one": ({"compare": [["base"]]}, "pairs .*got .'base'."),
    "itself": ({"compare": [["base", "base"]]}, "pairs .*got"),
    "no pairs": ({"compare": "base"}, "pairs .*got None"),
    "no mapping": ({"settings": [1]}, "settings must be a mapping"),
    "other network": ({"per_network": {"full": {}}}, "'full' is none of the known networks"),
    "network's key": ({"per_network": {"width4": {"arm": []}}}, "'arm' is none of the known keys"),
    "network's arm": ({"per_network": {"width4": {"arms": ["wide"]}}}, "'wide' is none of the"),
    "network's setting": (
        {"per_network": {"width4": {"settings": {"epoch": 1}}}},
        "epoch is no key.*epochs",
    ),
    "across": ({"across": [{"arm": "width4/base"}]}, "across has entries"),
    "across none": (
        {"across": [{"arm": "width4/base", "against": "full/base"}]},
        "'full/base' is none of the known networks and arms",
    ),
    "within": (
        {"across": [{"arm": "width4/dendrites", "against": "width4/base", "within": 12}]},
        "within is a Dice from 0 to below 1; got 12",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_before_any_training(name: str, write, tmp_path: Path) -> None:
    changes, pattern = BAD[name]
    with refused(pattern):
        run(wanted(write(**changes), tmp_path))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "", "\x00"])
def test_no_yaml_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with refused("x.yaml"):
        load_study(tmp_path / "x.yaml")


def test_no_file(tmp_path: Path) -> None:
    with refused("cannot be read"):
        load_study(tmp_path / "none.yaml")


def test_results_of_another_version_are_refused(write, tmp_path: Path) -> None:
    results = tmp_path / "results"
    claim(load_study(write()), results)
    claim(load_study(write(seeds=[0, 1, 2], arms=["base", "dendrites", "wide"])), results)
    for changes in (
        {"budget": {"epochs": 5}},
        {"growth": {"patience": 2}},
        {"metrics": ["dice", "nsd"]},
    ):
        with refused("another version of the study"):
            run(wanted(write(**changes), tmp_path))


def test_no_data(write, tmp_path: Path) -> None:
    with refused("is no folder"):
        run(dataclasses.replace(wanted(write(), tmp_path), dataset_dir=str(tmp_path / "nowhere")))


def test_wrong_use_and_failure_have_their_exit_codes(write, tmp_path: Path, capsys) -> None:
    file = str(write())
    assert main(["study", "walk", file]) == 2
    assert main(["study", "run", file]) == 2
    assert main(["study", "run", file, "--dataset", "x"]) == 2
    (tmp_path / "file").touch()
    results = ["--results", str(tmp_path / "file" / "r")]
    assert main(["study", "run", file, "--dataset_dir", str(tmp_path), *results]) == 1
    assert "results folder" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", [0, -1, "soon", True])
def test_budget_minutes(minutes: Any, write, tmp_path: Path) -> None:
    with refused("budget-minutes must be a number above 0"):
        run(dataclasses.replace(wanted(write(), tmp_path), budget_minutes=minutes))


def test_folds_are_apart(write, tmp_path: Path) -> None:
    study = load_study(write(folds=[0, 4]))
    places = Places(tmp_path, tmp_path, tmp_path)
    for fold, chooses in ((0, 1), (4, 0)):
        content = overlay(study, Trial("width4", "base", fold, 0), places, None)
        assert (content["test_fold"], content["fold"]) == (fold, chooses)
        assert "@test_fold)" in content["train::dataset::data"]
        assert "'validation', @test_fold)" in content["test"]["dataset"]["data"]


def test_arms_differ_by_what_they_say(write, tmp_path: Path) -> None:
    study = load_study(write(arms=list(ARMS)))
    places = Places(tmp_path, tmp_path, tmp_path)
    plain = overlay(study, Trial("width4", "base", 0, 0), places, None)
    grown = overlay(study, Trial("width4", "dendrites", 0, 0), places, None)
    extra = {k: v for k, v in grown.items() if plain.get(k) != v}
    assert set(extra) == {"_desc_", "+train::handlers"}
    assert extra["+train::handlers"][0]["config"]["activation"] == "sigmoid"


def test_variants_grow_with_their_own_settings(write, tmp_path: Path) -> None:
    variants = {"thin": {"kind": "low_rank", "rank": 2}, "few": {"activation": "tanh"}}
    study = load_study(write(arms=["few", "base", "thin"], variants=variants))
    assert [t.arm for t in trials_of(study)][:3] == ["base", "few", "thin"]
    places = Places(tmp_path, tmp_path, tmp_path)
    configs = {
        arm: overlay(study, Trial("width4", arm, 0, 0), places, None)["+train::handlers"][0]
        for arm in variants
    }
    assert all(c["_target_"].endswith("GrowAndSettle") for c in configs.values())
    assert configs["thin"]["config"] == {
        **{"activation": "relu", "initialisation": "layer", "scale": 1.0},
        **variants["thin"],
    }
    assert configs["few"]["config"]["activation"] == "tanh"


def test_studies_without_variants_keep_their_results(write) -> None:
    """The hash that results carry: of format 1 as it was first written."""
    study = load_study(write(compare=[["dendrites", "base"]]))
    assert study.protocol == load_study(write()).protocol
    assert study.protocol != load_study(write(variants={"thin": {}})).protocol
    kept = {"format": 1, "bundle": GOOD["bundle"], "budget": {"epochs": 4}, "metrics": ["dice"]}
    text = json.dumps(kept | {"settings": {}, "growth": {}}, sort_keys=True)
    assert study.protocol == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("cost", ["parameters", "flops"])
def test_wider_channels_meet_the_cost(cost: str) -> None:
    definition = resolved_definition([str(BUNDLE / "configs" / "train.json")], {})
    base = {"parameters": 4_741_734, "flops": 4.16e9 * 32 * 48 * 32 / (40 * 56 * 40)}[cost]
    channels = wider_channels(definition, int(2 * base), cost, [32, 48, 32])
    assert channels[0] > 32 and channels == sorted(channels)


def test_no_width_fits() -> None:
    definition = resolved_definition([str(BUNDLE / "configs" / "train.json")], {})
    with refused("No channels bring UNet within 2 %"):
        wider_channels(definition | {"channels": [1, 1], "strides": [2]}, 3, "parameters", [16] * 3)


def test_networks_are_those_of_the_bundle() -> None:
    assert networks_of(BUNDLE)[:2] == ["full", "compressed"]


def test_a_run_takes_the_part_that_was_asked_for(write) -> None:
    study = load_study(write(networks=["width4", "width16"]))
    assert len(trials_of(study)) == 8
    part = _trials(study, {"networks": "width16", "arms": "", "seeds": "0,1"})
    assert len(part) == 4 and {t.network for t in part} == {"width16"}
    assert {(t.arm, t.seed) for t in part} == {(a, s) for a in study.arms for s in (0, 1)}
    assert [t.seed for t in _trials(study, {"seeds": 1})] == [1] * 4
    for only, said in (
        ({"seeds": "2"}, "--seeds must name seeds of the study, 0, 1; got '2'"),
        ({"networks": "full"}, "--networks must name networks of the study, width4, width16;"),
        ({"arms": "wide"}, "--arms must name arms of the study, base, dendrites; got 'wide'"),
    ):
        with refused(said):
            _trials(study, only)


def test_a_setting_may_be_a_key_of_the_network_s_overlay(write) -> None:
    gate = {"base_network_def::gate": False}
    assert load_study(write(networks=["sparse"], settings=gate)).settings == gate
    with refused("base_network_def::gate is no key of .*configs: train.json. Did you mean"):
        load_study(write(networks=["sparse", "width4"], settings=gate))
    own = {"per_network": {"sparse": {"settings": gate}}}
    assert load_study(write(networks=["sparse", "width4"], **own)).settings_of("sparse") == gate
