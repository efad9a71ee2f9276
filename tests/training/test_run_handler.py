"""RunHandler: run folder, history, best network, exact resume, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from helpers.harness import (
    BUNDLE,
    history,
    in_child,
    kill_self,
    refused,
    same_run,
    train,
    workflow,
)
from perforated_monai import UserError
from perforated_monai.files import atomic
from perforated_monai.training import checkpoints, ignite_events, run_handler
from perforated_monai.training.checkpoints import load_hashed
from perforated_monai.training.run_handler import RunHandler

# -- what a run leaves -----------------------------------------------------------------------


def test_run_folder(plain_run: Path) -> None:
    names = {p.name for p in plain_run.iterdir()}
    assert {"config.json", "history.jsonl", "checkpoints", "dice.png", "tensorboard"} <= names
    assert "tracker" not in names
    kept = sorted(p.name for p in (plain_run / "checkpoints").glob("*.pt"))
    assert kept == ["best.pt", "epoch_0002.pt", "epoch_0003.pt"]
    config = json.loads((plain_run / "config.json").read_text())
    assert config["config"]["base_network_def"]["channels"] == [4, 8]
    assert config["versions"]["torch"] == torch.__version__
    assert len(config["manifest_sha256"]) == 64
    assert not list(plain_run.rglob("*.tmp"))


def test_history_and_best_agree(plain_run: Path) -> None:
    epochs = [e for e in history(plain_run) if e["event"] == "epoch"]
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    best = max(epochs, key=lambda e: e["dice"])
    saved = load_hashed(plain_run / "checkpoints" / "best.pt")
    assert (saved["epoch"], saved["dice"]) == (best["epoch"], best["dice"])
    assert history(plain_run)[-1]["best_dice"] == best["dice"]
    assert best["dice"] == pytest.approx(sum(best["dice_per_class"]) / 2, abs=1e-5)


def test_epochs_before_growth_are_those_of_the_plain_run(plain_run: Path, grown_run: Path) -> None:
    """Tracker and dendrite initialisation draw from generators of their own."""

    def first(out: Path) -> list[tuple]:
        epochs = [e for e in history(out) if e["event"] == "epoch"]
        return [(e["loss"], e["dice"], e["lr"]) for e in epochs[:3]]

    growth = next(e for e in history(grown_run) if e["event"] == "grow")
    assert growth["epoch"] >= 2
    count = growth["epoch"]
    assert first(plain_run)[:count] == first(grown_run)[:count]


def test_parameters_are_counted_as_exported(grown_run: Path) -> None:
    sets = {
        e["dendrite_sets"]: e["parameters"] for e in history(grown_run) if e["event"] == "epoch"
    }
    assert sets[0] < sets[1]
    saved = load_hashed(grown_run / "checkpoints" / "best.pt")
    assert saved["growth"]["sets"] >= 1


def test_every_epoch_counts_against_the_budget(grown_run: Path) -> None:
    epochs = [e["epoch"] for e in history(grown_run) if e["event"] == "epoch"]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) <= 9


# -- exact resume ----------------------------------------------------------------------------


def run_until(data: Path, out: Path, stop: Callable, dendrites: bool, **changes: object) -> int:
    """Train in a forked child that ``stop(trainer)`` ends; the child's exit code."""

    def work() -> None:
        made = workflow(data, out, dendrites, **changes)
        stop(made.parser.get_parsed_content("train::trainer"))
        made.run()

    return in_child(work)


def kill_at(epoch: int, event: Events) -> Callable:
    def stop(trainer) -> None:
        def check() -> None:
            if trainer.state.epoch == epoch:
                kill_self()

        trainer.add_event_handler(event, check)

    return stop


def kill_in_write(name: str) -> Callable:
    """SIGKILL half-way through the writing of a file of that name."""

    def stop(_trainer) -> None:
        original = checkpoints.write_bytes

        def dies(path: Path, data: bytes) -> None:
            if path.name != name:
                original(path, data)
                return
            with atomic(path) as temporary:
                temporary.write_bytes(data[: len(data) // 2])
                kill_self()

        checkpoints.write_bytes = dies

    return stop


@pytest.mark.parametrize(
    ("dendrites", "stop"),
    [
        pytest.param(False, kill_at(2, Events.ITERATION_COMPLETED), id="plain, in a step"),
        pytest.param(True, kill_at(4, Events.EPOCH_STARTED), id="grown, after the first growth"),
        pytest.param(True, kill_in_write("epoch_0005.pt"), id="grown, inside a checkpoint write"),
    ],
)
def test_killed_run_goes_on_exactly(
    phantoms: Path,
    tmp_path: Path,
    plain_run: Path,
    grown_run: Path,
    dendrites: bool,
    stop: Callable,
) -> None:
    assert run_until(phantoms, tmp_path, stop, dendrites) == -signal.SIGKILL
    assert in_child(lambda: train(phantoms, tmp_path, dendrites) and None) == 0
    same_run(tmp_path, grown_run if dendrites else plain_run)


def test_another_worker_count_changes_nothing(
    phantoms: Path, tmp_path: Path, plain_run: Path
) -> None:
    assert in_child(lambda: train(phantoms, tmp_path, num_workers=2) and None) == 0
    same_run(tmp_path, plain_run)


def test_damaged_checkpoint_is_named_and_the_one_before_used(
    phantoms: Path, tmp_path: Path, plain_run: Path
) -> None:
    stop = kill_at(3, Events.ITERATION_COMPLETED)
    assert run_until(phantoms, tmp_path, stop, False) == -signal.SIGKILL
    last = tmp_path / "checkpoints" / "epoch_0002.pt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    half = last.with_name(".perforated-monai-123-0123abcd.tmp")
    other = last.with_name(".theirs.123.tmp")
    other.write_bytes(b"theirs")
    half.write_bytes(b"half")
    with pytest.warns(UserWarning, match="epoch_0002.pt is damaged"):
        train(phantoms, tmp_path)
    assert not half.exists() and other.read_bytes() == b"theirs"
    same_run(tmp_path, plain_run)


def test_sigterm_exits_143_with_a_whole_checkpoint(
    phantoms: Path, tmp_path: Path, plain_run: Path
) -> None:
    def stop(trainer) -> None:
        def send() -> None:
            if trainer.state.epoch == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        trainer.add_event_handler(Events.ITERATION_COMPLETED, send)

    assert run_until(phantoms, tmp_path, stop, False) == 143
    assert load_hashed(tmp_path / "checkpoints" / "epoch_0002.pt")["epoch"] == 2
    train(phantoms, tmp_path)
    same_run(tmp_path, plain_run)


# -- refusals --------------------------------------------------------------------------------


def test_finished_folder_is_refused(phantoms: Path, plain_run: Path) -> None:
    before = (plain_run / "history.jsonl").read_bytes()
    with refused("finished run of 3 epochs"):
        train(phantoms, plain_run)
    assert (plain_run / "history.jsonl").read_bytes() == before


def test_another_configuration_is_refused(phantoms: Path, tmp_path: Path) -> None:
    assert run_until(phantoms, tmp_path, kill_at(2, Events.EPOCH_STARTED), False) == -signal.SIGKILL
    with refused("learning_rate: 0.01 then, 0.02 now"):
        train(phantoms, tmp_path, learning_rate=0.02)
    with refused("another configuration|without dendrites"):
        train(phantoms, tmp_path, dendrites=True, epochs=3)


def blind_run(data: Path, out: Path) -> None:
    """Train with a RunHandler that a program makes and gives no configuration."""
    shipped = json.loads((BUNDLE / "configs" / "train.json").read_text())["train"]["handlers"]
    others = [h for h in shipped if h["_target_"] != "perforated_monai.RunHandler"]
    made = workflow(data, out, **{"train::handlers": others})
    part = made.parser.get_parsed_content
    evaluator, network = part("validate::evaluator"), part("network")
    handler = RunHandler(out, evaluator, network, part("optimizer"), part("lr_scheduler"))
    handler.attach(part("train::trainer"))
    made.run()


def test_a_run_whose_configuration_cannot_be_seen_does_not_resume(
    phantoms: Path, tmp_path: Path
) -> None:
    assert run_until(phantoms, tmp_path, kill_at(2, Events.EPOCH_STARTED), False) == -signal.SIGKILL
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.pt")}
    with refused("RunHandler sees no configuration.*run_config"):
        blind_run(phantoms, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.pt")} == before


def test_a_run_that_could_not_resume_does_not_start(phantoms: Path, tmp_path: Path) -> None:
    with refused("RunHandler sees no configuration"):
        blind_run(phantoms, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_configuration_without_run_config_is_seen_by_the_parser(
    phantoms: Path, tmp_path: Path, plain_run: Path
) -> None:
    """Run folders and configs of before the argument go on."""
    stop = kill_at(2, Events.EPOCH_STARTED)
    old = {"train::handlers::2::run_config": None}
    assert run_until(phantoms, tmp_path, stop, False, **old) == -signal.SIGKILL
    train(phantoms, tmp_path)
    same_run(tmp_path, plain_run)


# -- the process around a run ----------------------------------------------------------------


def test_a_program_that_trains_is_as_before(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(run_handler, "keep_freed_memory", lambda: asked.append("mallopt"))
    before = (sys.excepthook, signal.getsignal(signal.SIGTERM), Path.cwd())
    train(phantoms, tmp_path / "library", epochs=1)
    assert asked == []
    assert (sys.excepthook, signal.getsignal(signal.SIGTERM), Path.cwd()) == before
    monkeypatch.setattr(sys, "argv", ["/site/monai/bundle/__main__.py", "run"])
    train(phantoms, tmp_path / "command", epochs=1)
    assert asked == ["mallopt"]
    sys.excepthook = before[0]


def test_folder_that_cannot_be_made_is_refused(phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("cannot be written"):
        train(phantoms, tmp_path / "file" / "run")


def test_growth_without_run_handler_is_refused() -> None:
    with pytest.raises(UserError, match="needs a RunHandler"):
        RunHandler.of(Engine(lambda *_: None))


def test_cleaning_up_comes_before_handlers_that_raise_again() -> None:
    """Pins Ignite's private list of handlers, for which it has no public way to the front."""
    called: list[str] = []
    engine = Engine(lambda *_: 1 / 0)
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda *_: called.append("another's"))
    ignite_events.call_first(engine, Events.EXCEPTION_RAISED, lambda *_: called.append("ours"))
    engine.run([0])
    assert called == ["ours", "another's"]


# -- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["--dataset_dirr", "x"], ["dataset_dirr", "dataset_dir"]),
        (["--dataset_dir", "no/such/folder"], ["no/such/folder"]),
    ],
)
def test_last_line_names_the_mistake(
    repo: Path, tmp_path: Path, override: list[str], words: list[str]
) -> None:
    bundle = repo / "bundles" / "hippocampus_mri_dendritic"
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += ["--config_file", str(bundle / "configs" / "train.json")]
    command += ["--bundle_root", str(bundle), "--output_dir", str(tmp_path / "out"), *override]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, time.monotonic() - start
    last = done.stderr.strip().splitlines()[-1]
    assert all(word in last for word in words), last
    assert not (tmp_path / "out").exists()


def test_last_line_of_an_inference_names_the_volume(
    repo: Path, phantoms: Path, tmp_path: Path
) -> None:
    """Also where a progress bar is open: its clean-up must not come last."""
    bundle, scans = repo / "bundles" / "hippocampus_mri_dendritic", tmp_path / "scans"
    scans.mkdir()
    whole = sorted((phantoms / "imagesTr").glob("*.nii.gz"))[0].read_bytes()
    (scans / "a.nii.gz").write_bytes(whole)
    (scans / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += ["--config_file", str(bundle / "configs" / "inference.json")]
    command += ["--bundle_root", str(bundle), "--dataset_dir", str(scans)]
    command += ["--output_dir", str(tmp_path / "masks")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "cut.nii.gz" in done.stderr.strip("\n").splitlines()[-1]
    assert [p.name for p in (tmp_path / "masks").iterdir()] == ["a_seg.nii.gz"]
