"""Overlays of the zoo's styles: parts found, nothing run, knobs first, handlers appended."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.foreign_bundles import brats, prostate, spleen, swin
from helpers.overlay_reading import OURS, Change, add_handler, merged, overlay
from perforated_monai.bundle.overlay.make import Choices, make_overlay
from perforated_monai.bundle.overlay.parts import Given, Parts, find_parts
from perforated_monai.bundle.overlay.train_config import read_train_config
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.errors import UserError

SPLEEN = Parts(
    trainer="train::trainer",
    network="network",
    network_def="network_def",
    network_class="UNet",
    optimizer="optimizer",
    scheduler=None,
    evaluator="validate::evaluator",
    metric="val_mean_dice",
    handlers="train::handlers",
    handlers_text="@train::handlers",
    interval=1,
    run="run",
)


@pytest.mark.parametrize(
    ("make", "differs"),
    [
        (spleen, {}),
        (brats, {"network_class": "SegResNet", "scheduler": "lr_scheduler"}),
        (prostate, {"run": "training"}),
        (swin, {"network_class": "SwinUNETR"}),
    ],
)
def test_parts_of_zoo_styles(make: Callable, differs: dict[str, Any], tmp_path: Path) -> None:
    found = find_parts(read_train_config(make(tmp_path / "bundle")), Given())
    assert found == Parts(**{**vars(SPLEEN), **differs})


@pytest.mark.parametrize("make", [spleen, brats, prostate, swin])
def test_the_overlay_merges_and_is_valid(make: Callable, tmp_path: Path) -> None:
    folder = make(tmp_path / "bundle")
    text = make_overlay(folder)
    assert text == make_overlay(folder)
    file = tmp_path / "dendrites.yaml"
    file.write_text(text)
    together = merged(folder, file)
    handlers = together["train::handlers"]
    assert [h["_target_"] for h in handlers[-2:]] == OURS
    config = DendriteConfig.from_dict(together["dendrites"])
    older = {"groups", "rank"}  # of kinds that overlays no longer offer
    assert set(together["dendrites"]) == set(config.to_dict()) - older  # every knob is there
    assert together["imports"][-1] == "$import perforated_monai"
    assert together["validate::handlers::2::save_dir"] == "$str(@output_dir) + '/models'"
    assert not str(together["output_dir"]).startswith("$")


def test_command_on_top_then_knobs_then_plumbing(bundle: Callable) -> None:
    lines = make_overlay(bundle()).splitlines()
    assert "monai.bundle run --config_file" in lines[1]
    assert "perforated_monai export" in lines[3]
    starts = [next(i for i, line in enumerate(lines) if line.startswith(key)) for key in KEYS]
    assert starts == sorted(starts)
    assert max(len(line) for line in lines[4:]) <= 120


KEYS = (
    *("#", "dendrites:", "base_weights:", "output_dir:"),
    *("perforated_overlay:", "+train::handlers"),
)


def test_knobs_follow_the_options(bundle: Callable) -> None:
    folder = bundle()
    found = overlay(
        folder, layers=("model.2.*",), layer_types=("ConvTranspose3d",), freeze_base=True
    )
    knobs = found["dendrites"]
    assert knobs["layer_names"] == ["model.2.*"]
    assert knobs["layer_types"] == ["ConvTranspose3d"]
    assert knobs["freeze_base"] is True
    assert "in 1 layer" in make_overlay(folder, Choices(layers=("model.2.0.conv",)))
    with pytest.raises(UserError, match="matches none of the 6 layers"):
        overlay(folder, layers=("encoder.*",))


def test_from_inside_the_bundle_it_writes_beside_it(
    bundle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle()
    for place, out in ((folder, "../runs/spleen"), (folder / "configs", "../../runs/spleen")):
        monkeypatch.chdir(place)
        text = make_overlay(Path(os.path.relpath(folder)))
        assert yaml.safe_load(text)["output_dir"] == out
        assert f"--out {out.removesuffix('runs/spleen')}spleen_dendritic" in text
    monkeypatch.undo()
    assert overlay(folder)["output_dir"] == "runs/spleen"


def test_weights_to_start_from(bundle: Callable, tmp_path: Path) -> None:
    folder = bundle()
    assert overlay(folder)["base_weights"] == "$str(@bundle_root) + '/models/model.pt'"
    assert overlay(folder, from_scratch=True)["base_weights"] is None
    own = tmp_path / "own.pt"
    own.touch()
    assert overlay(folder, weights=str(own))["base_weights"] == str(own)
    with pytest.raises(UserError, match="Give one of them"):
        overlay(folder, weights=str(own), from_scratch=True)
    with pytest.raises(UserError, match="is no file"):
        overlay(folder, weights="nowhere.pt")
    (folder / "models" / "model.pt").unlink()
    assert overlay(folder)["base_weights"] is None
    with pytest.raises(UserError, match=r"freeze_base keeps the weights.*--weights"):
        overlay(folder, freeze_base=True)


def test_a_bundle_that_loads_weights_itself_keeps_doing_so(bundle: Callable) -> None:
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": "$@ckpt_dir + '/model.pt'",
        "load_dict": {"model": "@network"},
    }
    folder = bundle(add_handler("train", loader))
    assert overlay(folder)["base_weights"] is None
    assert "train::handlers::3 is a CheckpointLoader" in make_overlay(folder)


def test_no_expression_and_no_code_of_the_bundle_runs(bundle: Callable, tmp_path: Path) -> None:
    trap = tmp_path / "was_run"
    evil = f"$open({str(trap)!r}, 'w').write('x')"

    def change(config: dict[str, Any]) -> None:
        config["trap"] = evil
        config["imports"].append("$import scripts.trap")
        config["initialize"].append(evil)
        config["network_def"]["channels"] = f"$[4, 8, {evil[1:]}]"
        config["optimizer"]["lr"] = "@trap"
        config["train"]["handlers"].append({"_target_": "scripts.trap.TrapHandler", "x": evil})
        config["train"]["dataset"]["_target_"] = "scripts.trap.Data"

    folder = bundle(change)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "trap.py").write_text(f"open({str(trap)!r}, 'w').write('x')\n")
    text = make_overlay(folder)
    assert not trap.exists()
    assert "scripts" not in sys.modules or not hasattr(sys.modules["scripts"], "trap")
    assert "what its layers cost" in text  # an expression in the definition: not built
    assert yaml.safe_load(text)["dendrites"]["kind"] == "copy" and "so its shape is" in text
    assert "train::handlers::3 is a handler of the bundle's own code" in text


@pytest.mark.parametrize(
    ("choices", "kind", "kinds", "said"),
    [
        (Choices(), None, ["distal", "apical"], "apical at model.2."),
        (Choices(kind="copy"), "copy", [], "layers"),
        (Choices(kind="distal"), "distal", [], "Will grow: distal at"),
        (Choices(layers=("model.0.*",)), "copy", [], "Will grow: copy at model.0"),
    ],
)
def test_kinds_follow_the_network_unless_they_are_named(
    choices: Choices, kind: str | None, kinds: list[str], said: str, bundle: Callable
) -> None:
    text = make_overlay(bundle(), choices)
    found = yaml.safe_load(text)["dendrites"]
    assert (found["kind"], [part["kind"] for part in found["sets"]]) == (kind, kinds)
    assert said in text and "% operations" in text
    assert DendriteConfig.from_dict(found).kind == kind


def test_a_network_that_keeps_full_resolution_gets_no_apical(tmp_path: Path) -> None:
    text = make_overlay(brats(tmp_path / "bundle"))
    assert [p["kind"] for p in yaml.safe_load(text)["dendrites"]["sets"]] == ["distal"]
    assert "Left out: kind apical" in text


def test_names_cannot_leave_their_comments(bundle: Callable, tmp_path: Path) -> None:
    folder = bundle(lambda c: c.update(ckpt_dir='models\'\nrun: ["$evil()"]\n#'))
    named = folder.rename(tmp_path / "a b\nrun: [$evil()]")
    found = yaml.safe_load(make_overlay(named))
    assert "run" not in found and not any("evil" in key for key in found)


def inline_handlers(config: dict[str, Any]) -> None:
    config["train"]["trainer"]["train_handlers"] = config["train"].pop("handlers")


def handlers_by_expression(config: dict[str, Any]) -> None:
    config["train"]["trainer"]["train_handlers"] = "$@train#handlers[: 2]"


def no_handlers(config: dict[str, Any]) -> None:
    del config["train"]["handlers"], config["train"]["trainer"]["train_handlers"]


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        (inline_handlers, "train::trainer::train_handlers", None),
        (handlers_by_expression, "dendrite_handlers",
         "$[*(@train::handlers[: 2]), *@dendrite_handlers]"),
        (no_handlers, "dendrite_handlers", "@dendrite_handlers"),
    ],
)  # fmt: skip
def test_handlers_of_other_shapes(
    change: Change, key: str, expected: str | None, bundle: Callable, tmp_path: Path
) -> None:
    folder = bundle(change)
    given = Given(evaluator="validate::evaluator" if change is no_handlers else "")
    file = tmp_path / "dendrites.yaml"
    file.write_text(make_overlay(folder, Choices(given=given)))
    together = merged(folder, file)
    targets = [h["_target_"] for h in together[key]]
    assert targets[-2:] == OURS
    if expected is not None:
        assert together["train::trainer::train_handlers"].replace("#", "::") == expected
    if change is no_handlers:
        assert targets[0] == "ValidationHandler"


def test_single_expressions_become_lists(bundle: Callable) -> None:
    def change(config: dict[str, Any]) -> None:
        config["initialize"] = config["initialize"][0]
        del config["imports"]

    found = overlay(bundle(change))
    assert found["initialize"][0] == "$monai.utils.set_determinism(seed=123)"
    assert "watch_bundle" in found["initialize"][1]
    assert found["imports"] == ["$import perforated_monai"]


def test_a_missing_bundle_root_is_filled_in(bundle: Callable) -> None:
    folder = bundle(lambda c: c.pop("bundle_root") and c.update(ckpt_dir="models"))
    assert overlay(folder)["bundle_root"] == folder.as_posix()
