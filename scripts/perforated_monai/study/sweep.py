"""A sweep by Optuna's TPE: many workers, also on many machines, share one study in a database."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from ..errors import UserError
from ..files import write_json
from ..training.run_folder import RunFolder
from . import results
from .energy import EnergyMeter
from .process import last_line, start
from .study_file import Study
from .sweep_space import as_choice, choose
from .trial import Places, Trial, command, only_test, overlay

CHOSEN = "sweep.json"  # beside result.json: the values that the search chose
_HEARTBEAT, _GRACE, _POLL = 10, 30, 0.5  # seconds


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
    results.claim(study, places.results)
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


def open_sweep(study: Study, places: Places, storage: str) -> optuna.Study:
    """The sweep in its database, made when missing.

    Raises:
        UserError: for a database that cannot be reached, or a sweep of another version.
    """
    url = storage or f"sqlite:///{places.results / 'sweep.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not storage:
        places.results.mkdir(parents=True, exist_ok=True)
    try:
        search = _connect(study, url)
        known = search.user_attrs.get("protocol")
        if known is None:
            search.set_user_attr("protocol", _protocol(study))
    except Exception as error:  # sqlalchemy, its drivers and Optuna have each their own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        shown = url.split("@")[-1]
        msg = f"--storage {shown} cannot be reached: {reason}. Start it, or correct the URL."
        raise UserError(msg) from None
    if known not in (None, _protocol(study)):
        msg = (
            f"The storage holds a sweep {study.name!r} of another version of {study.file}. Give "
            "another --storage, or the file as it was; sweep: trials may grow."
        )
        raise UserError(msg)
    return search


def _connect(study: Study, url: str, attempts: int = 10) -> optuna.Study:
    """Open the sweep; workers that start at once may make the tables at once, so try again."""
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = RDBStorage(
                    url,
                    heartbeat_interval=_HEARTBEAT,
                    grace_period=_GRACE,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
                )
            return optuna.create_study(
                storage=storage,
                study_name=study.name,
                direction="maximize",
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(constant_liar=True),
                pruner=_pruner(study.sweep),
            )
        except Exception as error:  # of sqlalchemy, by the database
            attempts -= 1
            said = str(error).lower()
            if attempts == 0 or not any(w in said for w in ("already exists", "duplicate")):
                raise
            time.sleep(_POLL)


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
        self._commit = results.commit_of(Path(__file__).parent)

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
        return int(self.study.sweep["trials"]) - sum(not _is_retry(t) for t in trials)

    def _objective(self, asked: optuna.Trial) -> float:
        frozen = self._stored(asked)
        trials = self.search.get_trials(deepcopy=False)
        before = [t for t in trials if t.number < frozen.number and not _is_retry(t)]
        if not _is_retry(frozen) and len(before) >= int(self.study.sweep["trials"]):
            asked.set_user_attr("surplus", True)  # two workers asked at once for the last one
            raise _FailedError
        values = choose(asked, self.study.sweep["space"])
        number = frozen.system_attrs.get("failed_trial", frozen.number)
        trial = Trial(
            self.study.networks[0], f"sweep{number:04d}", self.study.folds[0], self.study.seeds[0]
        )
        asked.set_user_attr("trial", trial.id)
        return self._train(asked, trial, values)

    def _train(self, asked: optuna.Trial, trial: Trial, values: dict[str, Any]) -> float:
        run = self.places.run(trial)
        for folder in (run, self.places.kept(trial)):
            folder.mkdir(parents=True, exist_ok=True)
        choice = as_choice(values, self.study.growth)
        content = overlay(self.study, trial, self.places, None, choice)
        file = run / "trial.json"
        write_json(file, content)
        write_json(self.places.kept(trial) / "trial.json", content)
        write_json(self.places.kept(trial) / CHOSEN, values)
        if RunFolder(run).finished:
            file = run / "only_test.json"
            write_json(file, only_test(content))
        meter = EnergyMeter()
        child = start(command(self.study, trial, self.places, file), run / "log.txt", self.workers)
        while child.poll() is None:
            self._watch(asked, trial, child)
            time.sleep(_POLL)
        if child.returncode != 0:
            reason = last_line(run / "log.txt", child.returncode)
            asked.set_user_attr("reason", reason)
            results.keep_failure(self.study, trial, self.places, reason)
            raise _FailedError(reason)
        results.keep(self.study, trial, self.places, meter.joules(), self._commit)
        kept = results.read(self.places, trial) or {}
        asked.set_user_attr("parameters", kept["parameters"])
        return float(kept["validation_dice"])

    def _stored(self, asked: optuna.Trial) -> FrozenTrial:
        return self.search._storage.get_trial(asked._trial_id)

    def _watch(self, asked: optuna.Trial, trial: Trial, child: subprocess.Popen) -> None:
        """Report new epochs; end the process when it is hopeless or the time is over."""
        if self._over():
            child.terminate()
            child.wait()
            RetryHeartbeatStaleTrialCallback()(self.search, self._stored(asked))
            raise _StoppedError
        run = RunFolder(self.places.run(trial))
        if not run.history_file.exists():
            return
        best, reported = 0.0, self._stored(asked).intermediate_values
        for event in run.history():
            if event["event"] == "epoch" and event["dice"] is not None:
                best = max(best, event["dice"])
                if event["epoch"] not in reported:
                    asked.report(best, event["epoch"])
        if asked.should_prune():
            child.terminate()
            child.wait()
            results.keep_failure(self.study, trial, self.places, "pruned: below the median")
            raise optuna.TrialPruned


def counts(search: optuna.Study) -> dict[str, int]:
    """Trials by what became of them; a trial taken up again counts once."""
    found = {"done": 0, "pruned": 0, "failed": 0, "left": 0}
    for trial in search.get_trials(deepcopy=False):
        if trial.state == TrialState.COMPLETE:
            found["done"] += 1
        elif trial.state == TrialState.PRUNED:
            found["pruned"] += 1
        elif trial.state == TrialState.FAIL and "reason" in trial.user_attrs:
            found["failed"] += 1
        elif trial.state in (TrialState.WAITING, TrialState.RUNNING):
            found["left"] += 1
    return found


def summary(study: Study, search: optuna.Study) -> int:
    """Print how many trials ended how, and the best."""
    found = counts(search)
    print(", ".join(f"{n} {what}" for what, n in found.items()), f"of {study.sweep['trials']}")
    if not found["done"]:
        return 1
    best = search.best_trial
    print(f"best validation Dice {best.value:.4f}: {best.params}")
    every = found["done"] + found["pruned"] >= int(study.sweep["trials"])
    return 0 if every else 3


def _is_retry(trial: FrozenTrial) -> bool:
    return "failed_trial" in trial.system_attrs or bool(trial.user_attrs.get("surplus"))


def _pruner(sweep: dict[str, Any]) -> optuna.pruners.BasePruner:
    after = int(sweep.get("prune_after_epochs", 10))
    if after == 0:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=after)


def _protocol(study: Study) -> str:
    return study.protocol + json.dumps(study.sweep["space"], sort_keys=True)
