"""The committed phantom study, run for real: by two runners at once, with one trial killed."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.harness import BUNDLE
from perforated_monai.study import runner
from perforated_monai.study.process import start
from perforated_monai.study.results import StudyResults, claim
from perforated_monai.study.runner import StudyRunner, trials_of
from perforated_monai.study.study_file import Study, load_study
from perforated_monai.study.trial import Places, Trial
from perforated_monai.study.trial_rows import Measurement, TrialRow

FILE = BUNDLE / "studies" / "phantom.yaml"
KILLED = Trial("width4", "dendrites", 0, 0)

# `python -m monai.bundle`, but SIGKILL ends it in its fifth epoch, before the history says so.
KILLED_IN_EPOCH_5 = """
import os, runpy, signal
from perforated_monai.training.history import History

flush = History.flush

def dies(history):
    if history.path.exists() and history.path.read_text().count('"event": "epoch"') == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(history)

History.flush = dies
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@dataclass
class Done:
    """The study after its first pass (two runners, one child killed) and after its second."""

    study: Study
    places: Places
    first: dict[str, str]
    statuses: dict[str, str]
    said: list[str]

    @classmethod
    def read(cls, phantoms: Path, folder: Path) -> Done:
        """What ``run_phantom_study`` left in a folder."""
        passes = json.loads((folder / "passes.json").read_text())
        return cls(load_study(FILE), _places(phantoms, folder), **passes)


def run_phantom_study(phantoms: Path, folder: Path) -> None:
    """Every trial is a process of its own; one of them is killed in the first pass."""
    study, places = load_study(FILE), _places(phantoms, folder)
    claim(study, places.results)
    said: list[str] = []
    reasons: list[dict[Trial, str]] = []
    runners = [StudyRunner(study, places, say=said.append) for _ in range(2)]
    threads = [threading.Thread(target=lambda r=r: reasons.append(r.run())) for r in runners]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "start", _start_killing(places))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    passes = {
        "first": {t.id: reason for part in reasons for t, reason in part.items()},
        "statuses": {t.id: _row(places, t).status for t in trials_of(study)},
        "said": said,
    }
    StudyRunner(study, places, say=said.append).run()
    (folder / "passes.json").write_text(json.dumps(passes))


def _places(phantoms: Path, folder: Path) -> Places:
    manifest = phantoms / "manifest.json"
    return Places(folder / "results", folder / "work", phantoms.resolve(), manifest)


def _start_killing(places: Places) -> Callable[..., subprocess.Popen]:
    """How a runner starts a trial; the one that is to be killed gets a program that dies."""

    def begin(words: list[str], log: Path, workers: int) -> subprocess.Popen:
        if log.parent == places.run(KILLED):
            assert words[1:3] == ["-m", "monai.bundle"]
            words = [words[0], "-c", KILLED_IN_EPOCH_5, *words[3:]]
        return start(words, log, workers)

    return begin


def row_of(done: Done, trial: Trial) -> TrialRow:
    """What became of a trial."""
    return _row(done.places, trial)


def _row(places: Places, trial: Trial) -> TrialRow:
    row = StudyResults(places).row(trial)
    assert row is not None
    return row


def measured(done: Done, trial: Trial) -> Measurement:
    """What a trial that is done has measured."""
    found = row_of(done, trial).measured
    assert found is not None
    return found


def history_of(done: Done, trial: Trial) -> list[str]:
    """Lines of a trial's history as they were kept."""
    return (done.places.kept(trial) / "history.jsonl").read_text().splitlines()
