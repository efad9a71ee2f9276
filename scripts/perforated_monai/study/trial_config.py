"""The configuration of a trial: an overlay over the bundle's own, run by a plain MONAI command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..bundle.configs import load_configs
from ..data.reading import read, read_mapping
from ..data.schema import FOLDS
from ..errors import UserError
from ..networks.build import build_network
from .arms import (
    PLAIN,
    SIZED,
    Leader,
    arm_settings,
    grow_settings,
    growth_config,
    network_files,
    network_settings,
    variant_config,
)
from .equal_size import deeper_network, resolved_definition, wider_channels
from .equal_time import slower_channels
from .from_start import with_dendrites
from .result_tables import read_tables
from .study_file import Study
from .sweep_space import Choice
from .trial import Places, Trial


def overlay(
    study: Study,
    trial: Trial,
    places: Places,
    leader: Leader | None,
    choice: Choice | None = None,
) -> dict[str, Any]:
    """The configuration that a trial lays over the bundle's own; it is written beside the result.

    Training leaves the validation part of fold k out altogether; growth, stopping and the choice
    of the checkpoint see the validation part of fold (k + 1) mod 5. The same process then scores
    the best network on the validation part of fold k.

    Args:
        study: the study.
        trial: one of its trials, or of its sweep.
        places: where it runs.
        leader: what the dendritic trial did, for arms that follow it.
        choice: what a sweep has chosen for this trial, instead of an arm.
    """
    settings = {**study.settings, **network_settings(trial.network)}
    settings |= study.settings_of(trial.network)
    if trial.arm in PLAIN:
        settings |= study.plain_settings
    if choice is not None:
        settings |= choice.settings
    content: dict[str, Any] = {
        "_desc_": f"{study.name}: {trial.id}",
        "seed": trial.seed,
        "fold": (trial.fold + 1) % FOLDS,
        "test_fold": trial.fold,
        "epochs": study.epochs,
        **settings,
        "train::dataset::data": "$perforated_monai.datalist("
        "@dataset_dir, @manifest, 'train', @fold, @test_fold)",
        "test": _test(study.bundle_root, study.metrics),
        "run": [
            "$perforated_monai.guard_command_line()",
            "$@train::trainer.run()",
            "$@test::evaluator.run()",
        ],
    }
    if trial.arm in (*SIZED, "from_start") and leader is not None:
        _change_network(content, study, trial, settings, leader, places)
    if trial.arm in study.variants:
        arm = grow_settings(variant_config(study.growth, study.variants[trial.arm]))
    elif choice is None:
        arm = arm_settings(trial.arm, study.growth, leader)
    else:
        arm = grow_settings(choice.growth) if choice.growth is not None else {}
    for added in (arm, places.extra):
        for key, value in added.items():
            content[key] = [*content.get(key, []), *value] if key.startswith("+") else value
    return content


def only_test(content: dict[str, Any]) -> dict[str, Any]:
    """The same overlay for a trial whose training is done and whose test was interrupted."""
    return {
        **content,
        "network": "$perforated_monai.study.handlers.reload.best_network("
        "@base_network_def, @output_dir).to(@device)",
        "run": ["$perforated_monai.guard_command_line()", "$@test::evaluator.run()"],
    }


def command(study: Study, trial: Trial, places: Places, file: Path) -> list[str]:
    """The command line of a trial; ``file`` holds its overlay."""
    files = [*network_files(study.bundle_root, trial.network), file]
    words = [sys.executable, "-m", "monai.bundle", "run"]
    words += ["--config_file", "[" + ",".join(f"'{f}'" for f in files) + "]"]
    words += ["--bundle_root", str(study.bundle_root), "--dataset_dir", str(places.dataset)]
    if places.manifest is not None:
        words += ["--manifest", str(places.manifest)]
    # Trials of a study read the same cases, and those of a seed and fold the same crops.
    known = read_mapping(files[0])
    for key, folder in (("cache_dir", places.cases), ("crops_dir", places.crops)):
        if key in known and key not in study.settings:
            words += [f"--{key}", str(folder)]
    return [*words, "--output_dir", str(places.run(trial))]


def _change_network(
    content: dict[str, Any],
    study: Study,
    trial: Trial,
    settings: dict[str, Any],
    leader: Leader,
    places: Places,
) -> None:
    """Give a control that matches the dendritic network its size, or its dendrites."""
    files = [str(f) for f in network_files(study.bundle_root, trial.network)]
    definition = resolved_definition(files, settings)
    growth = growth_config("dendrites", study.growth)
    patch = _patch_of(files, settings)
    if trial.arm == "from_start":
        for key in [k for k in content if k.startswith("base_network_def::")]:
            del content[key]
        content["base_network_def"] = with_dendrites(definition, growth, leader.sets)
    elif trial.arm == "deeper":
        for key, value in deeper_network(definition, leader.parameters).items():
            content[f"base_network_def::{key}"] = value
    elif trial.arm == "wide_time":
        channels = _chosen_before(places, trial)
        if channels is None:
            made = with_dendrites(definition, growth, leader.sets)
            channels = slower_channels(definition, build_network(made["spec"]), patch)
        content["base_network_def::channels"] = channels
    else:
        cost = "flops" if trial.arm == "wide_flops" else "parameters"
        target = leader.flops if cost == "flops" else leader.parameters
        content["base_network_def::channels"] = wider_channels(definition, target, cost, patch)


def _chosen_before(places: Places, trial: Trial) -> list[int] | None:
    """Channels that the first trial of the arm was given: a width by time is measured once."""
    for other, config in read_tables(places.results).configs.items():
        if (other.network, other.arm) == (trial.network, trial.arm):
            return [int(channels) for channels in config["base_network_def::channels"]]
    pattern = f"{trial.network}-{trial.arm}-fold*-seed*/trial.json"
    for file in sorted(places.results.glob(pattern)):
        chosen: list[int] | None = json.loads(file.read_text(encoding="utf-8")).get(
            "base_network_def::channels"
        )
        if chosen is not None:
            return chosen
    return None


def _patch_of(files: list[str], settings: dict[str, Any]) -> list[int]:
    """``roi_size`` of merged configuration files."""
    parser = ConfigParser(load_configs(files))
    parser.update(settings)
    return [int(v) for v in parser.get_parsed_content("roi_size")]


def _test(bundle_root: Path, metrics: list[str]) -> dict[str, Any]:
    """The evaluation of the test part, with the preprocessing and the inferer of validation."""
    classes, background = _classes(bundle_root)
    dataset, dataloader = _validation(bundle_root)
    pair = {"output_transform": "$monai.handlers.from_engine(['pred', 'label'])"}
    known: dict[str, Any] = {
        "hd95": {
            "_target_": "HausdorffDistance",
            "include_background": background,
            "percentile": 95,
            **pair,
        },
        "nsd": {
            "_target_": "monai.handlers.IgniteMetricHandler",
            "_desc_": "normalised surface distance, tolerance 1 mm on voxels of 1 mm",
            "metric_fn": {
                "_target_": "monai.metrics.SurfaceDiceMetric",
                "class_thresholds": [1.0] * len(classes),
                "include_background": background,
            },
            **pair,
        },
    }
    columns = {"dice": "dice", "hd95": "hd95_mm", "nsd": "nsd"}
    return {
        "dataset": dataset
        | {"data": "$perforated_monai.datalist(@dataset_dir, @manifest, 'validation', @test_fold)"},
        "dataloader": dataloader | {"dataset": "@test::dataset"},
        "key_metric": {"dice": {"_target_": "MeanDice", "include_background": background, **pair}},
        "additional_metrics": {m: known[m] for m in metrics if m != "dice"},
        "handlers": [
            {
                "_target_": "perforated_monai.CaseTable",
                "output_dir": "@output_dir",
                "metrics": {m: columns[m] for m in dict.fromkeys(["dice", *metrics])},
                "classes": classes,
            },
            {
                "_target_": "perforated_monai.study.handlers.record.TrialRecord",
                "output_dir": "@output_dir",
                "network": "@network",
                "patch": "@roi_size",
                "regions": background,
            },
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@test::dataloader",
            "network": "@network",
            "inferer": "@validate::inferer",
            "postprocessing": "@validate::postprocessing",
            "key_val_metric": "@test::key_metric",
            "additional_metrics": "@test::additional_metrics",
            "val_handlers": "@test::handlers",
            "amp": "@amp",
        },
    }


def _validation(bundle_root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data set and data loader of validation, from the bundle's train.json."""
    file = bundle_root / "configs" / "train.json"
    validate = read_mapping(file)["validate"]
    return dict(validate["dataset"]), dict(validate["dataloader"])


def _classes(bundle_root: Path) -> tuple[list[str], bool]:
    """Class names, and whether channel 0 is a class, from the bundle's evaluate.json."""
    file = bundle_root / "configs" / "evaluate.json"
    try:
        config = read(file)
        handlers = config["validate::handlers"]
        classes = next(h["classes"] for h in handlers if "classes" in h)
        metrics = config["validate::additional_metrics"].values()
        return list(classes), any(m.get("include_background", False) for m in metrics)
    except (OSError, ValueError, KeyError, StopIteration, AttributeError) as error:
        msg = (
            f"{file} must list validate::handlers with a CaseTable and its classes, and "
            f"validate::additional_metrics ({type(error).__name__}). Correct the bundle."
        )
        raise UserError(msg) from None
