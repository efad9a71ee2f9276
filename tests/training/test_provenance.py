"""``config.json``: what a run was made from, and the refusal to continue it as another one."""

import copy
import hashlib
import importlib.metadata
import json
from pathlib import Path

import pytest
from torch import nn

from perforated_monai import UserError, __version__
from perforated_monai.training.provenance import provenance, refuse_other_config

CONFIG = {
    "epochs": 5,
    "dataset_dir": "$@bundle_root + '/data'",
    "num_workers": 2,
    "train": {
        "handlers": [{"_target_": "A", "progress": True}, {"_target_": "B"}],
        "dataloader": {"batch_size": 4, "persistent_workers": False},
    },
}


def written(tmp_path: Path, config: dict) -> Path:
    provenance(config).write(tmp_path / "config.json")
    return tmp_path / "config.json"


def changed(key: str, value: object) -> dict:
    config = copy.deepcopy(CONFIG)
    *parents, last = key.split("::")
    holder = config
    for parent in parents:
        holder = holder[int(parent) if isinstance(holder, list) else parent]
    holder[last] = value
    return config


def test_holds_config_and_versions(tmp_path: Path) -> None:
    stored = json.loads(written(tmp_path, CONFIG).read_text())
    assert stored["config"] == CONFIG
    assert stored["versions"]["perforated-monai"] == __version__
    for name in ("torch", "monai", "numpy"):
        assert stored["versions"][name] == importlib.metadata.version(name)
    assert stored["manifest_sha256"] is None


@pytest.mark.parametrize(
    "manifest",
    [
        "{root}/m.json",
        "$@bundle_root + '/m.json'",
        '$@bundle_root + "/m.json"',
        "$@bundle_root+'/m.json'",
    ],
)
def test_hash_of_the_manifest(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{}")
    config = {"bundle_root": str(tmp_path), "manifest": manifest.replace("{root}", str(tmp_path))}
    assert provenance(config).manifest_sha256 == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize(
    "manifest", [None, 3, "nowhere.json", "$@bundle_root", "$@bundle_root + @name", "$f('x')", "."]
)
def test_a_manifest_that_cannot_be_found_has_no_hash(manifest: object, tmp_path: Path) -> None:
    config = {"bundle_root": str(tmp_path), "manifest": manifest}
    assert provenance(config).manifest_sha256 is None


def test_the_generator_of_synthetic_volumes_is_kept(tmp_path: Path) -> None:
    config = {"manifest": str(tmp_path / "m.json")}
    for manifest, generator in (
        ('{"generator": {"name": "phantom"}}', {"name": "phantom"}),
        ('{"generator": null}', None),
        ("[]", None),
        ("no JSON", None),
    ):
        (tmp_path / "m.json").write_text(manifest)
        assert json.loads(written(tmp_path, config).read_text())["generator"] == generator


def test_a_tracked_run_continues_at_another_time(tmp_path: Path) -> None:
    tracked = {**CONFIG, "save_execute_config": "run/config_1.json", "run_name": "a"}
    again = {**CONFIG, "save_execute_config": "run/config_2.json", "run_name": "b"}
    refuse_other_config(written(tmp_path, tracked), again)


def test_the_same_config_continues(tmp_path: Path) -> None:
    refuse_other_config(written(tmp_path, CONFIG), copy.deepcopy(CONFIG))


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_workers", 0),
        ("train::dataloader::persistent_workers", True),
        ("train::dataloader::prefetch_factor", 4),
        ("train::handlers::0::progress", False),
    ],
)
def test_settings_of_speed_may_change(key: str, value: object, tmp_path: Path) -> None:
    refuse_other_config(written(tmp_path, CONFIG), changed(key, value))


def test_a_run_may_move_with_its_data(tmp_path: Path) -> None:
    manifest = tmp_path / "here.json"
    manifest.write_text("{}")
    here = CONFIG | {"output_dir": "/a/run", "dataset_dir": "/a/data", "manifest": str(manifest)}
    file = written(tmp_path, here)
    manifest.rename(tmp_path / "there.json")
    places = {"output_dir": "/b/run", "dataset_dir": "/b/data", "bundle_root": "/b/bundle"}
    there = here | places | {"manifest": str(tmp_path / "there.json")}
    refuse_other_config(file, there)
    (tmp_path / "there.json").write_text('{"other": 1}')
    with pytest.raises(UserError, match="dataset_dir"):
        refuse_other_config(file, there)


@pytest.mark.parametrize(
    "key, value",
    [
        ("epochs", 6),
        ("train::dataloader::batch_size", 2),
        ("train::handlers::1::_target_", "C"),
        ("train::handlers", [{"_target_": "A", "progress": True}]),
        ("seed", 1),
    ],
)
def test_another_config_is_refused_by_key(key: str, value: object, tmp_path: Path) -> None:
    file = written(tmp_path, CONFIG)
    with pytest.raises(UserError) as caught:
        refuse_other_config(file, changed(key, value))
    message = str(caught.value)
    assert key in message and str(tmp_path) in message
    assert "then" in message and "now" in message and "output_dir" in message


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"without its config\.json.*another output_dir"):
        refuse_other_config(tmp_path / "config.json", CONFIG)
    with pytest.raises(UserError, match=r"sees no configuration.*merged_config"):
        refuse_other_config(written(tmp_path, CONFIG), {})


def test_a_run_of_before_run_config_goes_on(tmp_path: Path) -> None:
    """The argument names the configuration; what that holds is compared."""
    refuse_other_config(
        written(tmp_path, CONFIG), changed("train::handlers::1::run_config", "$merged_config()")
    )


def test_objects_in_a_programs_config_are_named(tmp_path: Path) -> None:
    file = written(tmp_path, {"network": nn.Linear(1, 1), "epochs": 2})
    assert json.loads(file.read_text())["config"]["network"] == "Linear"
    refuse_other_config(file, {"network": nn.Linear(1, 1), "epochs": 2})
    with pytest.raises(UserError, match="epochs: 2 then, 3 now"):
        refuse_other_config(file, {"network": nn.Linear(1, 1), "epochs": 3})
