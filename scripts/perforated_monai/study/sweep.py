"""A sweep by Optuna's TPE: many workers, also on many machines, share one study in a database."""

from __future__ import annotations

import subprocess
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from ..files import write_json
from ..training.run_folder import RunFolder
from . import trial_folder
from .energy import EnergyMeter
from .process import last_line, start
from .results import claim
from .study_file import Study
from .sweep_space import as_choice, choose
from .sweep_storage import PRUNED, counts, does_not_count, open_sweep, stored, taken_up_from
from .trial import SWEEP_ARM, Places, Trial
from .trial_config import command, only_test, overlay

_POLL = 0.5  # seconds


class _FailedError(Exception):
    """A trial's process failed; the others go on."""


class _StoppedError(Exception):
    """The time is over; the trial waits for the next run of the sweep."""


def run_sweep(
    study: Study, places: Places, workers: int, minutes: float | None, storage: str
) -> int:
    """Run what is missing of a sweep; 0 all done, 3 some failed or left, 1 none done.

    The score of a trial is its best validation Dice; test cases are scored for the record and seen
    by nothing here. A crashed trial is marked; that of a worker that was killed is taken up by
    another one and continues in its run folder.

    Args:
        study: with a ``sweep``.
        places: where.
        workers: trials at a time in this process.
        minutes: stop cleanly after so long.
        storage: URL of a database; SQLite in the results folder when empty.
    """
    search = open_sweep(study, places, storage)
    claim(study, places.results)
    sweeper = Sweeper(study, places, search, workers, minutes)
    threads = [threading.Thread(target=sweeper.work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        while any(t.is_alive() for t in threads):
            time.sleep(_POLL)
    except KeyboardInterrupt:
        sweeper.stop.set()
        for thread in threads:
            thread.join()
    return summary(study, search)


class Sweeper:
    """One process of a sweep; each of its threads runs ``work``."""

    def __init__(
        self,
        study: Study,
        places: Places,
        search: optuna.Study,
        workers: int = 1,
        minutes: float | None = None,
    ) -> None:
        self.study, self.places, self.search, self.workers = study, places, search, workers
        self.stop = threading.Event()
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._commit = trial_folder.commit_of(Path(__file__).parent)

    def work(self) -> None:
        """Run trials until the sweep has as many as it wants, or the time is over."""
        while not self._over():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                fail_stale_trials(self.search)
            trials = self.search.get_trials(deepcopy=False)
            if any(t.state == TrialState.WAITING for t in trials) or self._room(trials) > 0:
                self.search.optimize(
                    self._objective, n_trials=1, catch=(_FailedError, _StoppedError)
                )
            elif any(t.state == TrialState.RUNNING for t in trials):
                time.sleep(_POLL)  # its worker may die: then it comes back here
            else:
                return

    def _over(self) -> bool:
        if self._end is not None and time.monotonic() > self._end:
            self.stop.set()
        return self.stop.is_set()

    def _room(self, trials: list[FrozenTrial]) -> int:
        return int(self.study.sweep["trials"]) - sum(not does_not_count(t) for t in trials)

    def _objective(self, asked: optuna.Trial) -> float:
        frozen = stored(self.search, asked.number)
        trials = self.search.get_trials(deepcopy=False)
        earlier = [t for t in trials if t.number < frozen.number and not does_not_count(t)]
        if not does_not_count(frozen) and len(earlier) >= int(self.study.sweep["trials"]):
            asked.set_user_attr("surplus", True)  # two workers asked at once for the last one
            raise _FailedError
        values = choose(asked, self.study.sweep["space"])
        before = taken_up_from(frozen)
        number = frozen.number if before is None else before
        arm = f"{SWEEP_ARM}{number:04d}"
        trial = Trial(self.study.networks[0], arm, self.study.folds[0], self.study.seeds[0])
        asked.set_user_attr("trial", trial.id)
        return self._train(asked, trial, values)

    def _train(self, asked: optuna.Trial, trial: Trial, values: dict[str, Any]) -> float:
        folder = self.places.run(trial)
        for made in (folder, self.places.kept(trial)):
            made.mkdir(parents=True, exist_ok=True)
        choice = as_choice(values, self.study.growth)
        content = overlay(self.study, trial, self.places, None, choice)
        file = folder / "trial.json"
        write_json(file, content)
        write_json(self.places.kept(trial) / "trial.json", content)
        write_json(self.places.kept(trial) / trial_folder.CHOSEN, values)
        if RunFolder(folder).finished:
            file = folder / "only_test.json"
            write_json(file, only_test(content))
        meter = EnergyMeter()
        child = start(
            command(self.study, trial, self.places, file), folder / "log.txt", self.workers
        )
        while child.poll() is None:
            self._watch(asked, trial, child)
            time.sleep(_POLL)
        if child.returncode != 0:
            reason = last_line(folder / "log.txt", child.returncode)
            asked.set_user_attr("reason", reason)
            trial_folder.keep_failure(self.study, trial, self.places, reason)
            raise _FailedError(reason)
        row = trial_folder.keep(self.study, trial, self.places, meter.joules(), self._commit)
        assert row.measured is not None, "keep returns the row of a trial that is done"
        asked.set_user_attr("parameters", row.measured.parameters)
        return row.measured.validation_dice

    def _watch(self, asked: optuna.Trial, trial: Trial, child: subprocess.Popen) -> None:
        """Report new epochs; end the process when it is hopeless or the time is over."""
        if self._over():
            child.terminate()
            child.wait()
            RetryHeartbeatStaleTrialCallback()(self.search, stored(self.search, asked.number))
            raise _StoppedError
        run = RunFolder(self.places.run(trial))
        if not run.history_file.exists():
            return
        best, reported = 0.0, stored(self.search, asked.number).intermediate_values
        for event in run.history():
            if event["event"] == "epoch" and event["dice"] is not None:
                best = max(best, event["dice"])
                if event["epoch"] not in reported:
                    asked.report(best, event["epoch"])
        if asked.should_prune():
            child.terminate()
            child.wait()
            trial_folder.keep_failure(self.study, trial, self.places, PRUNED)
            raise optuna.TrialPruned


def summary(study: Study, search: optuna.Study) -> int:
    """Print how many trials ended how, and the best."""
    by_end = counts(search)
    words = {"left": "broken off"}
    ends = ", ".join(f"{n} {words.get(what, what)}" for what, n in by_end.items())
    print(f"{ends}, of {study.sweep['trials']}")
    if not by_end["done"]:
        return 1
    best = search.best_trial
    print(f"best validation Dice {best.value:.4f}: {best.params}")
    every = by_end["done"] + by_end["pruned"] >= int(study.sweep["trials"])
    return 0 if every else 3
