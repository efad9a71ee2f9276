"""Everything that training writes goes below output_dir, and the bundle is watched."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.overlay_reading import add_handler, overlay
from perforated_monai.bundle.overlay.make import make_overlay
from perforated_monai.bundle.overlay.watch import bundle_unchanged, watch_bundle
from perforated_monai.errors import UserError


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ({"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir"}, {}),
        ({"_target_": "TensorBoardStatsHandler", "log_dir": "$@output_dir + '/tb'"}, {}),
        ({"_target_": "TensorBoardStatsHandler"}, {"log_dir": "logs"}),
        ({"_target_": "TensorBoardImageHandler", "log_dir": "$@bundle_root + '/tb'"},
         {"log_dir": "logs"}),
        ({"_target_": "TensorBoardStatsHandler",
          "summary_writer": {"_target_": "torch.utils.tensorboard.SummaryWriter"}},
         {"summary_writer::log_dir": "logs"}),
        ({"_target_": "MetricsSaver", "save_dir": "$@bundle_root + '/eval'"},
         {"save_dir": "models"}),
        ({"_target_": "LogfileHandler", "output_dir": "."}, {"output_dir": "outputs"}),
        ({"_target_": "scripts.handlers.MySaver", "save_dir": "/somewhere"},
         {"save_dir": "models"}),
        ({"_target_": "CheckpointSaver", "save_dir": "@ckpt_dir", "_disabled_": True}, {}),
        ({"_target_": "MLFlowHandler", "tracking_uri": "http://server:5000"}, {}),
        ({"_target_": "MLFlowHandler"}, {"tracking_uri": "mlruns.db"}),
        ({"_target_": "MLFlowHandler", "tracking_uri": "$monai.utils.path_to_uri(@output_dir)"},
         {"tracking_uri": "mlruns.db"}),
    ],
)  # fmt: skip
def test_writers_move_into_output_dir(
    handler: dict[str, Any], expected: dict[str, str], bundle: Callable
) -> None:
    found = overlay(bundle(add_handler("train", handler)))
    place = "train::handlers::3::"
    moved = {k.removeprefix(place): v for k, v in found.items() if k.startswith(place)}
    assert moved.keys() == expected.keys()
    for name, leaf in expected.items():
        assert "@output_dir" in moved[name] and f"/{leaf}'" in moved[name]


def test_savers_that_were_apart_stay_apart(bundle: Callable) -> None:
    def change(config: dict[str, Any]) -> None:
        saver = config["validate"]["handlers"][2]
        config["validate"]["handlers"] += [
            {**saver, "save_dir": "$@bundle_root + '/last'"},
            dict(saver),
        ]

    found = overlay(bundle(change))
    places = [found[f"validate::handlers::{i}::save_dir"] for i in (2, 3, 4)]
    assert places[0] == places[2] != places[1]


def test_folder_variables_move_where_unknown_code_uses_them(bundle: Callable) -> None:
    def change(config: dict[str, Any]) -> None:
        config["initialize"].append("$os.makedirs(@ckpt_dir, exist_ok=True)")
        config["pretrained"] = "$@ckpt_dir + '/pretrained.pt'"
        loader = {"_target_": "CheckpointLoader", "load_path": "@pretrained", "load_dict": {}}
        config["train"]["handlers"].append(loader)

    found = overlay(bundle(change))
    assert found["ckpt_dir"] == "$str(@output_dir) + '/models'"
    # What reads through the variable keeps the bundle's own path.
    assert found["pretrained"] == "$(@bundle_root + '/models') + '/pretrained.pt'"


def test_a_variable_that_only_savers_and_loaders_use_stays(bundle: Callable) -> None:
    loader = {"_target_": "CheckpointLoader", "load_path": "$@ckpt_dir + '/m.pt'", "load_dict": {}}
    assert "ckpt_dir" not in overlay(bundle(add_handler("train", loader)))


@pytest.mark.parametrize(
    ("folder", "moves"),
    [("$@bundle_root + '/cache'", True), ("cache", True), ("/data/cache", False), (None, False)],
)
def test_caches_move_out_of_the_bundle_only(
    folder: str | None, moves: bool, bundle: Callable
) -> None:
    found = overlay(bundle(lambda c: c["train"]["dataset"].update(cache_dir=folder)))
    assert ("train::dataset::cache_dir" in found) is moves


def test_a_macro_is_moved_at_its_source(bundle: Callable, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["savers"] = config["validate"]["handlers"]
        config["validate"]["handlers"] = "%savers"

    folder = bundle(change)
    found = overlay(folder)
    assert "savers::2::save_dir" in found
    assert not any(key.startswith("validate::handlers") for key in found)
    config = json.loads((folder / "configs" / "train.json").read_text())
    other = tmp_path / "handlers.json"
    other.write_text(json.dumps({"savers": config.pop("savers")}))
    config["validate"]["handlers"] = f"%{other}::savers"
    (folder / "configs" / "train.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="comes from another file"):
        overlay(folder)


def test_changed_files_are_named_at_the_end(bundle: Callable, tmp_path: Path) -> None:
    folder = bundle()
    watch_bundle(folder, folder / "runs" / "one")
    (folder / "runs" / "one").mkdir(parents=True)
    (folder / "runs" / "one" / "history.jsonl").write_text("the run's own")
    bundle_unchanged()
    watch_bundle(folder, tmp_path / "run")
    (folder / "models" / "model.pt").write_bytes(b"changed")
    (folder / "training.log").touch()
    with pytest.raises(UserError, match=r"changed 2 files.*models/model.pt, training.log"):
        bundle_unchanged()
    bundle_unchanged()  # nothing is watched any more


def test_a_wrong_root_or_run_folder_is_refused(bundle: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Give --bundle_root"):
        watch_bundle("/workspace/nowhere", tmp_path / "run")
    with pytest.raises(UserError, match="output_dir must not hold the bundle"):
        watch_bundle(bundle(), tmp_path)


def test_log_files_inside_the_bundle_are_refused(bundle: Callable, tmp_path: Path) -> None:
    folder = bundle()
    (folder / "configs" / "logging.conf").write_text(
        "[handler_file]\nclass=FileHandler\nargs=('training.log',)\n"
    )
    assert "--logging_file False" in make_overlay(folder)
    handler = logging.FileHandler(folder / "training.log")
    logging.getLogger().addHandler(handler)
    try:
        with pytest.raises(UserError, match=r"logging.conf writes training.log.*--logging_file"):
            watch_bundle(folder, tmp_path / "run")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


@pytest.mark.slow
def test_stdout_is_yaml_in_a_process_of_its_own(bundle: Callable, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "perforated_monai", "overlay", str(bundle())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "dendrites" in yaml.safe_load(done.stdout)
