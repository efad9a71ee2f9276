"""What made bundles of the real zoo fail, end to end in one bundle; see ``helpers.odd_bundle``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import yaml
from ignite.engine import Events

from helpers.foreign_bundles import FAST, tree_hash, write_cases
from helpers.harness import CPU, history, initialised
from helpers.odd_bundle import forget_own_code, odd
from helpers.segment_bundle import segment
from perforated_monai.bundle.check.run import check_bundle
from perforated_monai.bundle.overlay.make import Choices, make_overlay
from perforated_monai.bundle.own_code import own_code
from perforated_monai.errors import UserError
from perforated_monai.export.new_bundle import export_to_new_bundle
from perforated_monai.export.options import Proof

pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")


@dataclass(frozen=True)
class Run:
    """The bundle, its data, the overlay's file, and the run folder."""

    bundle: Path
    data: Path
    overlay: Path
    out: Path


def train(run: Run, stop_in: int | None = None) -> None:
    """Run the overlay; ``stop_in`` breaks it in that epoch."""
    config = run.bundle / "configs" / "train.yaml"
    small = {"device": CPU, "train::trainer::max_epochs": 5, **FAST}
    with own_code(run.bundle):
        made = initialised(run.bundle, [config, run.overlay], run.data, run.out, **small)
        trainer = made.parser.get_parsed_content("train::trainer")

        def stop(engine: Any) -> None:
            if engine.state.epoch == stop_in:
                msg = "power cut"
                raise RuntimeError(msg)

        trainer.add_event_handler(Events.EPOCH_STARTED, stop)
        made.run()
        made.finalize()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("odd")
    bundle, data = odd(folder / "odd"), write_cases(folder / "data")
    (folder / "dendrites.yaml").write_text(make_overlay(bundle, Choices(trust=True)))
    before = tree_hash(bundle)
    made = Run(bundle, data, folder / "dendrites.yaml", folder / "run")
    train(made)
    assert tree_hash(bundle) == before
    return made


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The new bundle, and the lines that were said while it was made."""
    said: list[str] = []
    new = tmp_path_factory.mktemp("new") / "bundle"
    proof = Proof(patches=2, size=8, say=said.append)
    export_to_new_bundle(run.out, run.bundle, new, trust=True, proof=proof)
    return new, said


def test_a_layer_that_is_never_called_is_left_out_and_named(run: Run) -> None:
    events = history(run.out)
    left = next(e for e in events if e["event"] == "leave_out")
    assert left["layers"] == ["left_over"]
    grown = [e for e in events if e["event"] == "grow"]
    assert grown and {e["layers"] for e in grown} == {2}
    assert events.index(left) < events.index(grown[0])


def test_a_stopped_run_leaves_it_out_again_and_goes_on(run: Run, tmp_path: Path) -> None:
    again = Run(run.bundle, run.data, run.overlay, tmp_path / "run")
    with pytest.raises(RuntimeError):
        train(again, stop_in=4)
    kept = history(again.out)
    assert [e["event"] for e in kept].count("leave_out") == 1
    train(again)
    events = history(again.out)
    assert events[: len(kept)] == kept
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2, 3, 4, 5]
    assert {e["layers"] for e in events if e["event"] == "grow"} == {2}


def test_the_score_goes_by_its_own_name(run: Run, exported: tuple[Path, list[str]]) -> None:
    epochs = [e for e in history(run.out) if e["event"] == "epoch"]
    assert {e["metric"] for e in epochs} == {"val_iou"}
    record = json.loads((exported[0] / "models" / "network.json").read_text())
    assert record["trained"]["validation_metric"] == "val_iou"
    metadata = json.loads((exported[0] / "configs" / "metadata.json").read_text())
    assert "val_iou" in metadata["eval_metrics"] and "mean_dice" not in metadata["eval_metrics"]
    page = (exported[0] / "docs" / "README.md").read_text()
    assert "Best validation: val_iou 0." in page


def test_the_file_that_inference_loads_is_the_one_that_is_written(
    exported: tuple[Path, list[str]],
) -> None:
    new = exported[0]
    config = yaml.safe_load((new / "configs" / "inference.yaml").read_text())
    assert config["handlers"][0]["load_path"] == "$@bundle_root + '/models/model.pt'"
    assert sorted(p.name for p in (new / "models").glob("*.pt")) == ["model.pt"]
    missing = [f for f in check_bundle(new) if f.rule == "bundle-files"]
    assert not missing


def test_the_page_says_what_it_is_now(exported: tuple[Path, list[str]]) -> None:
    page = (exported[0] / "docs" / "README.md").read_text()
    top, _, below = page.partition("---\n")
    assert "with a network grown by perforated_monai" in top and "| model.pt |" in top
    assert "# An odd bundle" in below


def test_the_proof_is_as_small_as_asked_for_and_says_how_far_it_is(
    exported: tuple[Path, list[str]],
) -> None:
    report = json.loads((exported[0] / "models" / "parity.json").read_text())
    assert report["patch"] == [1, 8, 8, 8] and report["volumes"].startswith("2 patches")
    assert "the trained network: 2 of 2 patches" in exported[1]


def test_without_trust_own_code_stays_out(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_own_code(monkeypatch)
    with pytest.raises(UserError, match="add --trust"):
        export_to_new_bundle(run.out, run.bundle, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_it_segments(
    run: Run,
    exported: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget_own_code(monkeypatch)
    summary = segment(run.data / "imagesTr", tmp_path / "masks", exported[0])
    assert {row["status"] for row in summary.rows} == {"done"}
    mask = nib.load(tmp_path / "masks" / summary.rows[0]["mask"])
    assert mask.shape == (24, 24, 24)
