"""``run_study``: every trial in a process of its own; what is done stays done."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import UserError
from ..files import write_json
from ..training.run_folder import RunFolder
from . import trial_folder
from .arms import ARMS, DEPENDENT, Leader
from .energy import EnergyMeter
from .process import last_line, start
from .results import StudyResults
from .study_file import Study
from .trial import Places, Trial
from .trial_config import command, only_test, overlay
from .trial_rows import TrialRow

_POLL_SECONDS = 0.2


def trials_of(study: Study) -> list[Trial]:
    """Every trial, in the order in which they run: seed by seed, the dendritic arm first."""
    arms = sorted(study.arms, key=[*ARMS, *study.variants].index)
    return [
        Trial(network, arm, fold, seed)
        for fold in study.folds
        for network in study.networks
        for seed in study.seeds
        for arm in arms
        if arm in study.arms_of(network)
    ]


class StudyRunner:
    """Runs what is missing of a study.

    Several runners, also on several machines with one shared results folder, never take the same
    trial: each is locked while it runs. A killed trial continues from its run folder; a failed one
    is marked, the others go on, and the next run tries it again.

    Args:
        study: what to run.
        places: where.
        workers: trials at a time.
        minutes: stop after so long: nothing new starts, running trials end at their last whole
            epoch and continue next time. None: no limit.
        say: gets one line an event.
    """

    def __init__(
        self,
        study: Study,
        places: Places,
        workers: int = 1,
        minutes: float | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.study, self.places, self.workers, self.say = study, places, workers, say
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self._taken: set[Trial] = set()
        self._tried: dict[Trial, str] = {}
        self._children: dict[Trial, subprocess.Popen] = {}
        self._results = StudyResults(places)
        self._commit = trial_folder.commit_of(Path(__file__).parent)

    def run(self, trials: list[Trial] | None = None) -> dict[Trial, str]:
        """Run trials until none is left or the time is over; reasons of those that failed."""
        self.trials = trials_of(self.study) if trials is None else trials
        threads = [threading.Thread(target=self._work) for _ in range(self.workers)]
        with self._signals():
            for thread in threads:
                thread.start()
            while any(t.is_alive() for t in threads):
                if self._end is not None and time.monotonic() > self._end:
                    self.stop()
                time.sleep(_POLL_SECONDS)
        return {t: reason for t, reason in self._tried.items() if reason}

    def stop(self) -> None:
        """End running trials at their last whole epoch; nothing new starts."""
        if self._stop.is_set():
            return
        self._stop.set()
        with self._mutex:
            for child in self._children.values():
                child.terminate()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the children as well."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(s, lambda *_: self.stop()) for s in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    # -- one worker ------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stop.is_set():
            trial = self._next()
            if trial is None:
                return
            try:
                self._attempt(trial)
            except Exception as error:
                self._fail(trial, " ".join(str(error).split())[:300] or type(error).__name__)
            finally:
                with self._mutex:
                    self._taken.discard(trial)

    def _next(self) -> Trial | None:
        """The first trial that is neither done, tried nor running, and whose leader is done."""
        while not self._stop.is_set():
            with self._mutex:
                waits = False
                for trial in self.trials:
                    if trial in self._taken or trial in self._tried or self._done(trial):
                        continue
                    if not self._ready(trial):
                        waits = waits or trial.leader in self._taken
                        continue
                    self._taken.add(trial)
                    return trial
            if not waits:
                return None
            time.sleep(_POLL_SECONDS)
        return None

    def _done(self, trial: Trial) -> bool:
        row = self._results.row(trial)
        return row is not None and row.settled

    def _ready(self, trial: Trial) -> bool:
        return trial.arm not in DEPENDENT or self._done(trial.leader)

    def _attempt(self, trial: Trial) -> None:
        folder = self.places.run(trial)
        folder.mkdir(parents=True, exist_ok=True)
        self.places.kept(trial).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.places.kept(trial) / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._tried[trial] = ""  # another runner has it
            return
        try:
            if not self._done(trial):
                self._run_locked(trial)
        finally:
            lock.release()

    def _run_locked(self, trial: Trial) -> None:
        leader = self._leader(trial) if trial.arm in DEPENDENT else None
        if leader is not None and leader.same_as_base(trial.arm):
            trial_folder.keep_same_as_base(self.study, trial, self.places)
            self._tried[trial] = ""
            self.say(f"{trial.id}: nothing to differ by, the same as base")
            return
        content = overlay(self.study, trial, self.places, leader)
        meter = EnergyMeter()
        code, last = self._process(trial, content)
        if code != 0 and self._stop.is_set():
            self.say(f"{trial.id}: stopped, continues with the same command")
            return
        if code != 0:
            self._fail(trial, last)
            return
        row = trial_folder.keep(self.study, trial, self.places, meter.joules(), self._commit)
        self._tried[trial] = ""
        self.say(f"{trial.id}: {_summary(row)}")

    def _leader(self, trial: Trial) -> Leader | None:
        """What the dendritic trial did that this one follows."""
        row = self._results.row(trial.leader)
        if row is None or row.measured is None:
            return None
        history, measured = self._results.history(trial.leader), row.measured
        return Leader.of(history, measured.sets, measured.parameters, measured.flops)

    def _process(self, trial: Trial, content: dict[str, Any]) -> tuple[int, str]:
        folder = self.places.run(trial)
        file = folder / "trial.json"
        write_json(file, content)
        shutil.copyfile(file, self.places.kept(trial) / "trial.json")
        if RunFolder(folder).finished:
            file = folder / "only_test.json"
            write_json(file, only_test(content))
        words = command(self.study, trial, self.places, file)
        with self._mutex:
            if self._stop.is_set():
                return 1, "stopped"
            child = start(words, folder / "log.txt", self.workers)
            self._children[trial] = child
        code = child.wait()
        with self._mutex:
            del self._children[trial]
        return code, last_line(folder / "log.txt", code)

    def _fail(self, trial: Trial, reason: str) -> None:
        self._tried[trial] = reason
        trial_folder.keep_failure(self.study, trial, self.places, reason)
        self.say(f"{trial.id}: failed: {reason}")


def _summary(row: TrialRow) -> str:
    measured = row.measured
    assert measured is not None, "only of a trial that is done"
    grown = f", {measured.sets} sets" if measured.grow_epochs else ""
    return (
        f"test Dice {measured.mean_dice():.4f}, {measured.parameters:,} parameters{grown}, "
        f"{measured.train_minutes:.1f} min"
    )


def refuse_missing_data(places: Places) -> None:
    """Say that the data are not there before any process starts."""
    if not places.dataset.is_dir():
        msg = f"dataset_dir {places.dataset} is no folder. Give the folder of the data."
        raise UserError(msg)
