"""The raw folder of a trial: ``result.json``, ``cases.csv``, the history and how it was made."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data import scores
from ..data.scores import CaseRow
from ..errors import UserError
from ..files import write_json, write_text
from ..training.run_folder import RunFolder
from .study_file import FORMAT, Study
from .trial import Places, Trial
from .trial_rows import Environment, Event, Measurement, TrialRow, means

CHOSEN = "sweep.json"  # beside result.json: the values that a sweep chose
_RESULT, _CASES = "result.json", scores.TABLE


def read_row(folder: Path) -> TrialRow | None:
    """What became of the trial of a raw folder; None while it has not ended.

    Raises:
        UserError: for a file that is damaged.
    """
    file = folder / _RESULT
    if not file.exists():
        return None
    chosen = folder / CHOSEN
    try:
        values = json.loads(chosen.read_text()) if chosen.exists() else {}
        return TrialRow.from_json(json.loads(file.read_text()), values)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"[:120]
        msg = f"{file} is damaged ({reason}). Remove its folder to run the trial again."
        raise UserError(msg) from None


def rows_in(results: Path) -> Iterator[TrialRow]:
    """Rows of every raw folder of a results folder whose trial has ended, by name."""
    for file in sorted(results.glob(f"*/{_RESULT}")):
        row = read_row(file.parent)
        if row is not None:
            yield row


def read_cases(folder: Path) -> list[CaseRow]:
    """Test cases of a trial."""
    return scores.read_cases(folder / _CASES)


def read_history(folder: Path) -> list[Event]:
    """The events of a trial's training."""
    return RunFolder(folder).history()


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration that a trial ran with, without folders of the machine."""
    return RunFolder(folder).provenance().config


def keep(study: Study, trial: Trial, places: Places, energy: float | None, commit: str) -> TrialRow:
    """Copy what is small out of a finished run folder; ``result.json`` comes last."""
    run, kept = places.run(trial), places.kept(trial)
    kept.mkdir(parents=True, exist_ok=True)
    source, copy = RunFolder(run), RunFolder(kept)
    shutil.copyfile(source.history_file, copy.history_file)
    for name in (_CASES, "worst.npz"):
        shutil.copyfile(run / name, kept / name)
    made = source.provenance()
    here = dataclasses.replace(made, config=without_paths(made.config))
    text = json.dumps(dataclasses.asdict(here), separators=(",", ":"))
    write_text(copy.config_file, text + "\n")
    events = read_history(kept)
    epochs = [e for e in events if e["event"] == "epoch"]
    end = next(e for e in events if e["event"] == "complete")
    tested = json.loads((run / "test.json").read_text())
    device = tested.pop("device")
    measured = Measurement(
        epochs=len(epochs),
        best_epoch=end["best_epoch"],
        validation_dice=end["best_dice"],
        sets=end["integrated_dendrite_sets"],
        grow_epochs=[e["epoch"] for e in events if e["event"] == "grow"],
        scores=means(read_cases(kept)),
        seconds=sum(e["seconds"] for e in epochs),
        energy_joule=energy,
        channels=made.config.get("base_network_def", {}).get("channels"),
        environment=Environment(commit, device, made.manifest_sha256, made.versions),
        **tested,
    )
    return _write_row(study, places, TrialRow(trial, "done", measured))


def keep_same_as_base(study: Study, trial: Trial, places: Places) -> None:
    """Record that an arm had nothing to differ by, so that the arm base stands for it."""
    _write_row(study, places, TrialRow(trial, "same", same_as="base"))


def keep_failure(study: Study, trial: Trial, places: Places, reason: str) -> None:
    """Record why a trial failed; the next run of the study tries it again."""
    _write_row(study, places, TrialRow(trial, "failed", reason=reason))


def commit_of(folder: Path) -> str:
    """Commit of the checkout that holds ``folder``, with ``+`` when files of it were changed."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder))
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without folders of this machine."""
    config = dict(config)
    for key in ("bundle_root", "dataset_dir", "output_dir", "manifest", "cache_dir", "crops_dir"):
        value = config.get(key)
        if isinstance(value, str) and not value.startswith("$"):
            config[key] = Path(value).name
    return config


def _write_row(study: Study, places: Places, row: TrialRow) -> TrialRow:
    kept = places.kept(row.trial)
    kept.mkdir(parents=True, exist_ok=True)
    facts = {"format": FORMAT, "study": study.name, "protocol": study.protocol}
    write_json(kept / _RESULT, facts | row.to_json())
    return row
