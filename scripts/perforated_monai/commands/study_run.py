"""The commands ``study run``, ``study status`` and ``report``."""

from __future__ import annotations

import dataclasses

from ..errors import UserError
from ..inference.formats import as_list
from ..study import results
from ..study.runner import StudyRunner, refuse_missing_data, trials_of
from ..study.study_file import load_study
from ..study.tracking import trackers
from ..study.trial import Places, Trial, places_of


def run(
    file: str,
    dataset_dir: str,
    results_dir: str = "",
    work: str = "",
    manifest: str = "",
    workers: int = 1,
    budget_minutes: float | None = None,
    arms: object = "",
    storage: str = "",
    tracking: object = "",
) -> int:
    """Run what is missing of a study; 0 all done, 3 some failed or left, 1 none done."""
    study = load_study(file)
    places = places_of(study, dataset_dir, results_dir, work, manifest)
    places = dataclasses.replace(places, extra=trackers(as_list(tracking), study.name))
    if type(workers) is not int or workers < 1:
        msg = f"--workers must be a whole number >= 1; got {workers!r}."
        raise UserError(msg)
    if budget_minutes is not None and not (_number(budget_minutes) and budget_minutes > 0):
        msg = f"--budget-minutes must be a number above 0; got {budget_minutes!r}."
        raise UserError(msg)
    refuse_missing_data(places)
    if study.sweep:
        from ..study.sweep import run_sweep

        return run_sweep(study, places, workers, budget_minutes, storage)
    if storage:
        msg = f"--storage belongs to a sweep; {study.file} has no sweep. Leave it out."
        raise UserError(msg)
    results.claim(study, places.results)
    trials = trials_of(study)
    wanted = as_list(arms)
    if wanted:
        unknown = [a for a in wanted if a not in study.arms]
        if unknown:
            msg = (
                f"--arms must name arms of the study, {', '.join(study.arms)}; got {unknown[0]!r}."
            )
            raise UserError(msg)
        trials = [t for t in trials if t.arm in wanted]
    failed = StudyRunner(study, places, workers, budget_minutes).run(trials)
    done = sum(_status(places, t) in ("done", "same") for t in trials)
    print(f"{done} of {len(trials)} trials done, {len(failed)} failed; results in {places.results}")
    for trial, reason in failed.items():
        print(f"  {trial.id}: {reason}")
    return 0 if done == len(trials) else 3 if done else 1


def status(file: str, results_dir: str = "", storage: str = "") -> int:
    """Print where each trial stands."""
    study = load_study(file)
    places = places_of(study, "", results_dir, "", "")
    if results.claimed(places.results):
        results.check(study, places.results)
    if study.sweep:
        from ..study.sweep import open_sweep, summary

        summary(study, open_sweep(study, places, storage))
        return 0
    counts: dict[str, int] = {}
    for trial in trials_of(study):
        state = _status(places, trial)
        counts[state] = counts.get(state, 0) + 1
        note = (results.read(places, trial) or {}).get("reason", "")
        print(f"{trial.id:<40} {state:<8} {note}".rstrip())
    print(", ".join(f"{n} {state}" for state, n in counts.items()))
    return 0


def _status(places: Places, trial: Trial) -> str:
    found = results.read(places, trial)
    if found is not None:
        return str(found["status"])
    return "begun" if places.kept(trial).exists() else "waits"


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def report(file: str, results_dir: str = "", work: str = "", images: bool = False) -> int:
    """Write report.html and report.md of a study into its results folder."""
    from ..study.report import write_report

    study = load_study(file)
    places = places_of(study, "", results_dir, work, "")
    if results.claimed(places.results):
        results.check(study, places.results)
    places.results.mkdir(parents=True, exist_ok=True)
    html, markdown = write_report(study, places, images)
    print(f"{html} and {markdown.name}")
    return 0
