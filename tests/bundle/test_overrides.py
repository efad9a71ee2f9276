"""Mistyped overrides are refused with the near name; the last line of an error says its cause."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from tqdm import tqdm

from perforated_monai.bundle.last_line import open_bars
from perforated_monai.bundle.overrides import check_overrides, guard_command_line
from perforated_monai.errors import UserError
from perforated_monai.training.run_config import config_of_caller, merged_config

CONFIG = {
    "imports": ["$import perforated_monai"],
    "epochs": 2,
    "dataset_dir": "data",
    "network": {"_target_": "UNet", "spatial_dims": 3, "channels": [4, 8]},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1},
    "anything": {"_target_": "NoSuchComponent"},
    "table": {"_target_": "builtins.dict"},
    "train": {
        "trainer": {"_target_": "SupervisedTrainer", "max_epochs": "@epochs"},
        "handlers": [],
    },
    "steps": [{"_target_": "Flipd", "keys": "image"}],
    "run": ["$perforated_monai.guard_command_line()", "$open('was_run', 'w').write(str(@epochs))"],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    return file


def check(config: Path, *arguments: str) -> None:
    check_overrides(["--config_file", str(config), *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "5"],
        ["--epochs=5"],
        ["-epochs", "5"],
        ["--epochs", "-5", "--dataset_dir", "a=b"],
        ["--train::trainer::max_epochs", "5"],
        ["--train#trainer#max_epochs=5"],
        ["--steps::0::keys", "label"],
        ["--network::channels", "[4, 8]"],
        ["--network::dropout", "0.1"],
        ["--optimizer::weight_decay=0.01"],
        ["--steps::0::allow_missing_keys", "True"],
        ["--anything::unknown_here", "1"],
        ["--table::any", "1"],
        ["--network::_disabled_", "True"],
        ["--+train::handlers", "[]"],
        ["--meta_file", "m.json", "--logging_file=l.conf", "--run_id", "run"],
        ["--dataset-dir", "data"],
    ],
)
def test_known_keys_are_accepted(arguments: list[str], config: Path) -> None:
    check(config, *arguments)


@pytest.mark.parametrize(
    "argument, near",
    [
        ("--dataset_dirr", "dataset_dir"),
        ("--dataset_dirr=x", "dataset_dir"),
        ("-dataset_dirr", "dataset_dir"),
        ("--dataset-dirr", "dataset_dir"),
        ("--epoch", "epochs"),
        ("--train::trainer::max_epoch", "train::trainer::max_epochs"),
        ("--train#trainer#max_epoch", "train::trainer::max_epochs"),
        ("--trainer::max_epochs", "train::trainer::max_epochs"),
        ("--max_epochs", "train::trainer::max_epochs"),
        ("--network::dropuot=0.1", "network::dropout"),
        ("--optimizer::weight_decayy", "optimizer::weight_decay"),
        ("--steps::0::key", "steps::0::keys"),
        ("--network::_disable_", "network::"),
        ("--+train::handler", "train::handlers"),
        ("--epochs::0", "epochs"),
    ],
)
def test_a_mistyped_key_is_refused_with_the_near_name(
    argument: str, near: str, config: Path
) -> None:
    with pytest.raises(UserError) as caught:
        check(config, *([argument] if "=" in argument else [argument, "3"]))
    message = str(caught.value)
    key = argument.lstrip("-").partition("=")[0].replace("-", "_")
    assert message.startswith(f"--{key} is no key of the configuration")
    assert near in message.partition("Did you mean:")[2]


def test_an_index_behind_the_list_is_refused(config: Path) -> None:
    with pytest.raises(UserError, match="steps::7::keys"):
        check(config, "--steps::7::keys", "image")


def test_without_a_near_name_keys_are_listed(config: Path) -> None:
    with pytest.raises(UserError, match="anything, dataset_dir, epochs"):
        check(config, "--zzzzzz", "1")


@pytest.mark.parametrize("files", ["['{a}', '{b}']", '["{a}","{b}"]', "[{a},{b}]", "{a},{b}"])
def test_keys_of_every_merged_file_are_known(files: str, config: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("dendrites: {patience: 3}\nnetwork::norm: batch\n")
    both = files.format(a=config, b=overlay)
    check_overrides([f"--config_file={both}", "--dendrites::patience", "4", "--epochs", "1"])
    with pytest.raises(UserError, match="dendrites::patience"):
        check_overrides(["--config_file", both, "--dendrites::patiance", "4"])


def test_the_shipped_configs_know_their_keys(repo: Path) -> None:
    folder = repo / "bundles" / "hippocampus_mri_dendritic" / "configs"
    names = ("train.json", "compressed.yaml", "dendrites.yaml")
    files = str([str(folder / name) for name in names])
    check_overrides(["--config_file", files, "--dataset_dir", "x", "--output_dir", "y"])
    check_overrides(["--config_file", files, "--bundle_root", "x", "--dendrites::patience", "3"])
    with pytest.raises(UserError, match="Did you mean: output_dir"):
        check_overrides(["--config_file", files, "--outputdir", "y"])


def test_no_config_file_on_the_line_is_left_alone() -> None:
    check_overrides(["--whatever", "3"])


@pytest.mark.parametrize(
    "argv",
    [
        ["pytest"],
        [],
        ["/site/monai/bundle/__main__.py", "ckpt_export", "--config_file", "{c}", "--bad", "1"],
        ["client.py", "run", "--config_file", "{c}", "--bad", "1"],
    ],
)
def test_other_command_lines_are_left_alone(argv: list[str], config: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [word.replace("{c}", str(config)) for word in argv])
    hook = sys.excepthook
    guard_command_line()
    assert sys.excepthook is hook


# -- the configuration behind a component -----------------------------------------------------


def test_a_component_finds_the_merged_configuration() -> None:
    parser = ConfigParser({"epochs": 2, "text": "@epochs", "_meta_": {"version": "1"}})
    call = "training.run_config.config_of_caller()"
    parser["who"] = f"$__import__('perforated_monai.training.run_config').{call}"
    parser["epochs"] = 7
    found = parser.get_parsed_content("who")
    assert found["epochs"] == 7
    assert found["text"] == "@epochs"  # as written: what would run the same again
    assert "_meta_" not in found


def test_an_expression_finds_it_too() -> None:
    where = "perforated_monai.training.run_config"
    parser = ConfigParser({"imports": [f"$import {where}"], "epochs": 2})
    parser["who"] = f"$__import__('{where}').training.run_config.config_of_caller()"
    assert parser.get_parsed_content("who")["epochs"] == 2


def test_outside_of_a_parser_there_is_none() -> None:
    assert config_of_caller() == {}
    with pytest.raises(UserError, match="must stand in a configuration file"):
        merged_config()


# -- what a run leaves in its process -----------------------------------------------------------


def test_the_hook_of_before_comes_back_with_the_error(config: Path, monkeypatch, capsys) -> None:
    seen: list[type] = []
    own = lambda kind, error, trace: seen.append(kind)  # noqa: E731
    monkeypatch.setattr(sys, "excepthook", own)
    line = ["/site/monai/bundle/__main__.py", "run", "--config_file", str(config)]
    monkeypatch.setattr(sys, "argv", line)
    guard_command_line()
    guard_command_line()
    error = RuntimeError("expression failed")
    error.__cause__ = UserError("rule, value, cure")
    sys.excepthook(RuntimeError, error, None)
    assert sys.excepthook is own and seen == [RuntimeError]
    assert capsys.readouterr().err.strip() == "Error: rule, value, cure"


def test_tqdm_lists_its_open_bars() -> None:
    """Pins what ``open_bars`` reads of tqdm."""
    bar = tqdm(total=2, file=io.StringIO())
    assert bar in open_bars()
    bar.close()
    assert bar not in open_bars()


# -- the real command ---------------------------------------------------------------------------


def bundle_run(config: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config.name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments],
        cwd=config.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_last_line_of_a_real_run_names_the_key(config: Path) -> None:
    done = bundle_run(config, "--epocs", "5")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "--epocs is no key of the configuration" in last and "epochs" in last
    assert not (config.parent / "was_run").exists()


@pytest.mark.slow
def test_a_real_run_with_known_keys(config: Path) -> None:
    done = bundle_run(config, "--epochs", "5")
    assert done.returncode == 0, done.stderr
    assert (config.parent / "was_run").read_text() == "5"


@pytest.mark.slow
def test_the_last_line_of_a_real_run_names_an_unreadable_volume(config: Path) -> None:
    bad = config.parent / "bad.nii.gz"
    bad.write_bytes(b"no volume")
    content = {
        **CONFIG,
        "workers": 0,
        "dataset": {
            "_target_": "perforated_monai.CaseDataset",
            "data": [{"image": str(bad)}],
            "transform": [{"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"}],
        },
        "loader": {"_target_": "DataLoader", "dataset": "@dataset", "num_workers": "@workers"},
        "run": [CONFIG["run"][0], "$list(@loader)"],
    }
    config.write_text(json.dumps(content))
    for workers in ("0", "1"):
        done = bundle_run(config, "--workers", workers)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1
        assert "bad.nii.gz" in last and "ImageFileError" in last, done.stderr
