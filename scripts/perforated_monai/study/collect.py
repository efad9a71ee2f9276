"""``study collect``: raw folders of trials become the tables that are kept in the repository."""

from __future__ import annotations

from .result_tables import Tables, write_tables
from .results import StudyResults, check
from .runner import trials_of
from .study_file import Study
from .trial import Places


def collect(study: Study, places: Places) -> Tables:
    """Write the tables of a study from its raw folders and from the tables that are there.

    Trials stand in the order in which the study runs them; trials of a sweep, and of arms that the
    study file no longer names, come last. Raw folders stay as they are.

    Args:
        study: the study.
        places: where its results lie.

    Returns:
        what was written.

    Raises:
        UserError: for results of another version of the study, or damaged ones.
    """
    check(study, places.results)
    results = StudyResults(places)
    order = {trial: i for i, trial in enumerate(trials_of(study))}
    tables = Tables()
    for row in sorted(results.rows(), key=lambda r: order.get(r.trial, len(order))):
        trial = row.trial
        tables.rows[trial] = row
        if row.status == "done":
            tables.cases[trial] = results.cases(trial)
            tables.history[trial] = results.history(trial)
            tables.configs[trial] = results.config(trial)
    write_tables(study, places.results, tables)
    return tables
