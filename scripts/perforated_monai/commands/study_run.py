"""The commands ``study run``, ``study status``, ``study collect`` and ``report``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import UserError
from ..inference.formats import as_list
from ..study import collect as collecting
from ..study.results import StudyResults, check, claim, claimed
from ..study.runner import StudyRunner, refuse_missing_data, trials_of
from ..study.study_file import Study, load_study
from ..study.tracking import trackers
from ..study.trial import Places, Trial, places_of


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What ``study run`` was told; the meaning of each is that of the command's argument."""

    file: str
    dataset_dir: str
    results: str = ""
    work: str = ""
    manifest: str = ""
    workers: int = 1
    budget_minutes: float | None = None
    only: Mapping[str, object] = field(default_factory=dict)
    storage: str = ""
    tracking: object = ""


def run(wanted: Wanted) -> int:
    """Run what is missing of a study; 0 all done, 3 some failed or left, 1 none done."""
    study = load_study(wanted.file)
    places = places_of(
        study,
        dataset=wanted.dataset_dir,
        results=wanted.results,
        work=wanted.work,
        manifest=wanted.manifest,
    )
    places = dataclasses.replace(places, extra=trackers(as_list(wanted.tracking), study.name))
    workers, minutes = wanted.workers, wanted.budget_minutes
    if type(workers) is not int or workers < 1:
        msg = f"--workers must be a whole number >= 1; got {workers!r}."
        raise UserError(msg)
    if minutes is not None and not (_number(minutes) and minutes > 0):
        msg = f"--budget-minutes must be a number above 0; got {minutes!r}."
        raise UserError(msg)
    refuse_missing_data(places)
    if study.sweep:
        # Optuna takes seconds to import, and only a sweep needs it.
        from ..study.sweep import run_sweep

        return run_sweep(study, places, workers, minutes, wanted.storage)
    if wanted.storage:
        msg = f"--storage belongs to a sweep; {study.file} has no sweep. Leave it out."
        raise UserError(msg)
    claim(study, places.results)
    trials = _trials(study, wanted.only)
    failed = StudyRunner(study, places, workers, minutes).run(trials)
    results = StudyResults(places)
    done = sum(_status(results, t) in ("done", "same") for t in trials)
    print(f"{done} of {len(trials)} trials done, {len(failed)} failed; results in {places.results}")
    for trial, reason in failed.items():
        print(f"  {trial.id}: {reason}")
    return 0 if done == len(trials) else 3 if done else 1


def status(file: str, results_dir: str = "", storage: str = "") -> int:
    """Print where each trial stands."""
    study, places = _study_with_results(file, results_dir)
    if study.sweep:
        from ..study.sweep import summary
        from ..study.sweep_storage import database, open_sweep

        # Looking makes nothing: without a database the tables tell, in memory.
        there = database(places).exists()
        summary(study, open_sweep(study, places, storage or ("" if there else "sqlite://")))
        return 0
    results = StudyResults(places)
    counts: Counter[str] = Counter()
    for trial in trials_of(study):
        state = _status(results, trial)
        counts[state] += 1
        row = results.row(trial)
        note = "" if row is None else row.reason
        print(f"{trial.id:<40} {state:<8} {note}".rstrip())
    print(", ".join(f"{n} {state}" for state, n in counts.items()))
    return 0


def collect(file: str, results_dir: str = "") -> int:
    """Turn the raw folders of a study's trials into its tables."""
    study, places = _study_with_results(file, results_dir)
    tables = collecting.collect(study, places)
    ends = Counter(row.status for row in tables.rows.values())
    print(
        f"{len(tables.rows)} trials ({', '.join(f'{n} {end}' for end, n in ends.items())}) "
        f"in the tables of {places.results}"
    )
    return 0


def report(file: str, results_dir: str = "", work: str = "", *, images: bool = False) -> int:
    """Write report.html and report.md of a study into its results folder."""
    # Drawing takes seconds to import, and only a report needs it.
    from ..study.report import write_report

    study, places = _study_with_results(file, results_dir, work)
    try:
        places.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"results folder {places.results} cannot be made ({error.strerror}): choose another."
        raise UserError(msg) from error
    html, markdown = write_report(study, places, images)
    print(f"{html} and {markdown.name}")
    return 0


def _study_with_results(file: str, results_dir: str, work: str = "") -> tuple[Study, Places]:
    """A study and its places; results of another version of it are refused."""
    study = load_study(file)
    places = places_of(study, results=results_dir, work=work)
    if claimed(places.results):
        check(study, places.results)
    return study, places


def _trials(study: Study, only: Mapping[str, object]) -> list[Trial]:
    """Every trial, or those of the arms, networks and seeds that were asked for."""
    trials = trials_of(study)
    for plural, names in only.items():
        wanted = as_list(names)
        known = [str(value) for value in getattr(study, plural)]
        unknown = [name for name in wanted if name not in known]
        if unknown:
            msg = (
                f"--{plural} must name {plural} of the study, {', '.join(known)}; "
                f"got {unknown[0]!r}."
            )
            raise UserError(msg)
        one = plural.removesuffix("s")
        trials = [t for t in trials if not wanted or str(getattr(t, one)) in wanted]
    return trials


def _status(results: StudyResults, trial: Trial) -> str:
    row = results.row(trial)
    if row is not None:
        return row.status
    return "begun" if results.places.kept(trial).exists() else "waits"


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
