"""The database of a sweep: opened by every worker, made from the tables where it is missing."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..errors import UserError
from .results import StudyResults
from .study_file import Study
from .sweep_space import NAMES
from .trial import SWEEP_ARM, Places
from .trial_rows import TrialRow

PRUNED = "pruned: below the median"
_HEARTBEAT, _GRACE, _POLL = 10, 30, 0.5  # seconds


def database(places: Places) -> Path:
    """Where a sweep is kept when no storage is given."""
    return places.results / "sweep.db"


def open_sweep(study: Study, places: Places, storage: str) -> optuna.Study:
    """The sweep in its database; one that is made anew holds the trials of the results.

    Raises:
        UserError: for a database that cannot be reached, or a sweep of another version.
    """
    url = storage or f"sqlite:///{database(places)}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not storage:
        places.results.mkdir(parents=True, exist_ok=True)
    try:
        search = _connect(study, url)
        known = search.user_attrs.get("protocol")
        if known is None:
            _continue(search, study, places)
            search.set_user_attr("protocol", _protocol(study))
    except UserError:
        raise
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


def counts(search: optuna.Study) -> dict[str, int]:
    """Trials by what became of them; a trial taken up again counts once."""
    by_end = {"done": 0, "pruned": 0, "failed": 0, "left": 0}
    for trial in search.get_trials(deepcopy=False):
        if trial.state == TrialState.COMPLETE:
            by_end["done"] += 1
        elif trial.state == TrialState.PRUNED:
            by_end["pruned"] += 1
        elif trial.state == TrialState.FAIL and "reason" in trial.user_attrs:
            by_end["failed"] += 1
        elif trial.state in (TrialState.WAITING, TrialState.RUNNING):
            by_end["left"] += 1
    return by_end


def stored(search: optuna.Study, number: int) -> FrozenTrial:
    """A trial as the database has it now."""
    return search.get_trials(deepcopy=False)[number]


def taken_up_from(trial: FrozenTrial) -> int | None:
    """Number of the trial that this one takes up again; None for a trial of its own."""
    return RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)


def does_not_count(trial: FrozenTrial) -> bool:
    """Whether a trial takes up another one, or stands where none was run."""
    return taken_up_from(trial) is not None or bool(trial.user_attrs.get("surplus"))


def _continue(search: optuna.Study, study: Study, places: Places) -> None:
    """Give a new database the trials of the results, under their numbers."""
    rows = [row for row in StudyResults(places).rows() if row.trial.arm.startswith(SWEEP_ARM)]
    if not rows:
        return
    by_number = {int(row.trial.arm.removeprefix(SWEEP_ARM)): row for row in rows}
    with FileLock(places.results / ".lock"):
        for number in range(len(search.get_trials(deepcopy=False)), max(by_number) + 1):
            search.add_trial(_frozen(by_number.get(number), study.sweep["space"]))


def _frozen(row: TrialRow | None, space: Mapping[str, Any]) -> FrozenTrial:
    if row is None:  # its trial was taken up under another number
        return create_trial(state=TrialState.FAIL, user_attrs={"surplus": True})
    params = {name: value for name, value in row.chosen.items() if name in space}
    facts: dict[str, Any] = {
        "params": params,
        "distributions": {name: _distribution(name, space[name]) for name in params},
    }
    about: dict[str, Any] = {"trial": row.trial.id}
    if row.measured is not None:
        about["parameters"] = row.measured.parameters
        return create_trial(value=row.measured.validation_dice, user_attrs=about, **facts)
    if row.reason == PRUNED:
        return create_trial(state=TrialState.PRUNED, user_attrs=about, **facts)
    about["reason"] = row.reason
    return create_trial(state=TrialState.FAIL, user_attrs=about, **facts)


def _distribution(name: str, values: Any) -> BaseDistribution:
    if isinstance(values, list):
        return CategoricalDistribution(values)
    if NAMES[name] is int:
        return IntDistribution(values["low"], values["high"])
    return FloatDistribution(values["low"], values["high"], log=bool(values.get("log", False)))


def _pruner(sweep: dict[str, Any]) -> optuna.pruners.BasePruner:
    after = int(sweep.get("prune_after_epochs", 10))
    if after == 0:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=after)


def _protocol(study: Study) -> str:
    return study.protocol + json.dumps(study.sweep["space"], sort_keys=True)
