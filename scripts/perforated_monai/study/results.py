"""What is kept of a trial: one folder with ``result.json``, ``cases.csv`` and how it was made."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_json, write_text
from ..training.run_folder import RunFolder
from .study_file import FORMAT, Study
from .trial import Places, Trial

_MARK = "study.json"
# Checkpoints are large, and worst.npz holds slices of the labels.
_IGNORED = "work/\n.lock\nworst.npz\n*.db\n*.db-journal\n"


def claim(study: Study, results: Path) -> None:
    """Mark a results folder as this study's, or refuse one of another version of it.

    Raises:
        UserError: when the folder holds results of another protocol.
    """
    file = results / _MARK
    if not file.exists():
        if any(results.glob("*/result.json")):
            msg = f"{results} holds results without {_MARK}: choose another --results folder."
            raise UserError(msg)
        try:
            results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"results folder {results} cannot be made ({error.strerror}): choose another."
            raise UserError(msg) from None
        facts = {"format": FORMAT, "study": study.name, "protocol": study.protocol}
        write_json(file, facts)
        write_text(results / ".gitignore", _IGNORED)
        return
    check(study, results)


def claimed(results: Path) -> bool:
    """Whether a folder holds results of any study; a report alone is none."""
    return (results / _MARK).exists() or any(results.glob("*/result.json"))


def check(study: Study, results: Path) -> None:
    """Refuse a results folder of another study, or of another version of this one."""
    file = results / _MARK
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        msg = f"{file} cannot be read ({type(error).__name__}). Run the study first."
        raise UserError(msg) from None
    if found.get("format") != FORMAT or found.get("protocol") != study.protocol:
        msg = (
            f"{results} holds results of another version of the study {found.get('study')!r}: its "
            "budget, settings, growth or metrics were others. Give another --results folder, or "
            "the study file as it was; seeds, folds, arms and networks may be added."
        )
        raise UserError(msg)


def read(places: Places, trial: Trial) -> dict[str, Any] | None:
    """``result.json`` of a trial, or None."""
    file = places.kept(trial) / "result.json"
    if not file.exists():
        return None
    try:
        return dict(json.loads(file.read_text()))
    except ValueError:
        msg = f"{file} is damaged. Remove its folder to run the trial again."
        raise UserError(msg) from None


def keep(study: Study, trial: Trial, places: Places, energy: float | None, commit: str) -> None:
    """Copy what is small out of a finished run folder; ``result.json`` comes last."""
    run, kept = places.run(trial), places.kept(trial)
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(RunFolder(run).history_file, RunFolder(kept).history_file)
    for name in ("cases.csv", "worst.npz"):
        shutil.copyfile(run / name, kept / name)
    made = json.loads((run / "config.json").read_text())
    _write_compact(kept / "config.json", without_paths(made))
    events = RunFolder(run).history()
    epochs = [e for e in events if e["event"] == "epoch"]
    end = next(e for e in events if e["event"] == "complete")
    result = {
        **_head(study, trial, "done"),
        "epochs": len(epochs),
        "best_epoch": end["best_epoch"],
        "validation_dice": end["best_dice"],
        "sets": end["integrated_dendrite_sets"],
        "grow_epochs": [e["epoch"] for e in events if e["event"] == "grow"],
        **means(run / "cases.csv"),
        **json.loads((run / "test.json").read_text()),
        "train_minutes": round(sum(e["seconds"] for e in epochs) / 60, 3),
        "energy_joule": energy,
        "channels": _channels(made["config"]),
        "commit": commit,
        "versions": made["versions"],
        "manifest_sha256": made["manifest_sha256"],
    }
    write_json(kept / "result.json", result)


def keep_same_as_base(study: Study, trial: Trial, places: Places) -> None:
    """Record that an arm had nothing to differ by, so that the arm base stands for it."""
    kept = places.kept(trial)
    kept.mkdir(parents=True, exist_ok=True)
    facts = _head(study, trial, "same")
    write_json(kept / "result.json", facts | {"same_as": "base"})


def keep_failure(study: Study, trial: Trial, places: Places, reason: str) -> None:
    """Record why a trial failed; the next run of the study tries it again."""
    kept = places.kept(trial)
    kept.mkdir(parents=True, exist_ok=True)
    write_json(kept / "result.json", _head(study, trial, "failed") | {"reason": reason})


def means(file: Path) -> dict[str, float]:
    """Mean over cases of every column of ``cases.csv``; empty and infinite cells are left out."""
    rows = [r for r in csv.DictReader(file.open(newline="")) if r["case"] != "mean"]
    columns = [c for c in rows[0] if c != "case"]
    found = {}
    for column in columns:
        values = [float(r[column]) for r in rows if r[column]]
        finite = [v for v in values if math.isfinite(v)]
        found[column] = round(sum(finite) / len(finite), 6) if finite else math.nan
    return found


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


def without_paths(made: dict[str, Any]) -> dict[str, Any]:
    """A run's config.json without folders of this machine."""
    config = dict(made["config"])
    for key in ("bundle_root", "dataset_dir", "output_dir", "manifest", "cache_dir"):
        value = config.get(key)
        if isinstance(value, str) and not value.startswith("$"):
            config[key] = Path(value).name
    return {**made, "config": config}


def _head(study: Study, trial: Trial, status: str) -> dict[str, Any]:
    facts = {"format": FORMAT, "study": study.name, "protocol": study.protocol}
    named = {n: getattr(trial, n) for n in ("network", "arm", "fold", "seed")}
    return facts | named | {"status": status}


def _channels(config: dict[str, Any]) -> Any:
    return config.get("base_network_def", {}).get("channels")


def _write_compact(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, separators=(",", ":")) + "\n")
