"""The committed phantom study, run for real: by two runners at once, with one trial killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.harness import BUNDLE
from perforated_monai.study.results import StudyResults, claim
from perforated_monai.study.runner import StudyRunner, trials_of
from perforated_monai.study.study_file import Study, load_study
from perforated_monai.study.trial import Places, Trial
from perforated_monai.study.trial_rows import Measurement, TrialRow

FILE = BUNDLE / "studies" / "phantom.yaml"
KILLED = Trial("width4", "dendrites", 0, 0)


@dataclass
class Done:
    """The study after its first pass (two runners, one child killed) and after its second."""

    study: Study
    places: Places
    first: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    killed_after: int = 0
    said: list[str] = field(default_factory=list)


def run_phantom_study(phantoms: Path, folder: Path) -> Done:
    """Every trial is a process of its own."""
    places = Places(
        folder / "results", folder / "work", phantoms.resolve(), phantoms / "manifest.json"
    )
    made = Done(load_study(FILE), places)
    claim(made.study, places.results)
    runners = [StudyRunner(made.study, places, say=made.said.append) for _ in range(2)]
    found: list[dict[Trial, str]] = []
    threads = [threading.Thread(target=lambda r=r: found.append(r.run())) for r in runners]
    for thread in threads:
        thread.start()
    made.killed_after = kill_after_epochs(runners, places, 4)
    for thread in threads:
        thread.join()
    made.first = {t.id: reason for part in found for t, reason in part.items()}
    made.statuses = {t.id: row_of(made, t).status for t in trials_of(made.study)}
    StudyRunner(made.study, places, say=made.said.append).run()
    return made


def kill_after_epochs(runners: list[StudyRunner], places: Places, epochs: int) -> int:
    """SIGKILL the process of one trial in its epoch ``epochs`` + 1; the epochs it had done."""
    history = places.run(KILLED) / "history.jsonl"
    end = time.monotonic() + 240
    while time.monotonic() < end:
        children = [c for r in runners for t, c in r._children.copy().items() if t == KILLED]
        lines = history.read_text().count('"event": "epoch"') if history.exists() else 0
        if lines >= epochs and children:
            os.kill(children[0].pid, signal.SIGKILL)
            return lines
        time.sleep(0.02)
    pytest.fail("the trial never reached its epochs")


def row_of(done: Done, trial: Trial) -> TrialRow:
    """What became of a trial."""
    row = StudyResults(done.places).row(trial)
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
