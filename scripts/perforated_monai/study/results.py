"""The results of a study: its tables together with the raw folders of trials on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.reading import read
from ..data.scores import CaseRow
from ..errors import UserError
from ..files import write_json, write_text
from . import trial_folder
from .result_tables import STUDY, flat, mark_of, read_tables
from .study_file import FORMAT, Study
from .trial import Places, Trial
from .trial_rows import Event, TrialRow

# Raw folders, checkpoints and databases are large, and the page is made again by `report`.
_IGNORED = "*/\nreport.html\n.lock\n*.db\n*.db-journal\n"


class StudyResults:
    """What is known of every trial.

    Tables are read once, raw folders every time, since runners write them. Of a trial that both
    hold, the raw folder counts, unless it says that the trial failed and the tables do not.

    Args:
        places: where the results lie.

    Raises:
        UserError: for tables that cannot be read.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.tables = read_tables(places.results)

    def row(self, trial: Trial) -> TrialRow | None:
        """What became of a trial; None where it has not ended."""
        raw = trial_folder.read_row(self.places.kept(trial))
        return self.tables.rows.get(trial) if raw is None else self._chosen(raw)

    def rows(self) -> list[TrialRow]:
        """Every trial that has ended, also of arms that the study file does not name."""
        raw = {row.trial: self._chosen(row) for row in trial_folder.rows_in(self.places.results)}
        every = self.tables.rows | raw
        return [every[trial] for trial in sorted(every, key=lambda trial: trial.id)]

    def cases(self, trial: Trial) -> list[CaseRow]:
        """Test cases of a trial that is done."""
        if self._is_raw(trial):
            return trial_folder.read_cases(self.places.kept(trial))
        return self.tables.cases[trial]

    def history(self, trial: Trial) -> list[Event]:
        """Events of a trial that is done."""
        if self._is_raw(trial):
            return trial_folder.read_history(self.places.kept(trial))
        return self.tables.history[trial]

    def config(self, trial: Trial) -> dict[str, Any]:
        """Configuration of a trial that is done: path of a key -> value."""
        if self._is_raw(trial):
            return flat(trial_folder.read_config(self.places.kept(trial)))
        return self.tables.configs[trial]

    def _chosen(self, raw: TrialRow) -> TrialRow:
        known = self.tables.rows.get(raw.trial)
        return known if known is not None and known.settled and not raw.settled else raw

    def _is_raw(self, trial: Trial) -> bool:
        raw = trial_folder.read_row(self.places.kept(trial))
        return raw is not None and self._chosen(raw) is raw


def claim(study: Study, results: Path) -> None:
    """Mark a results folder as this study's, or refuse one of another version of it.

    Raises:
        UserError: when the folder holds results of another protocol.
    """
    file = results / STUDY
    if file.exists():
        check(study, results)
        return
    if claimed(results):
        msg = f"{results} holds results without {STUDY}: choose another --results folder."
        raise UserError(msg)
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"results folder {results} cannot be made ({error.strerror}): choose another."
        raise UserError(msg) from None
    write_json(file, mark_of(study))
    write_text(results / ".gitignore", _IGNORED)


def claimed(results: Path) -> bool:
    """Whether a folder holds results of any study; a report alone is none."""
    return (results / STUDY).exists() or any(results.glob("*/result.json"))


def check(study: Study, results: Path) -> None:
    """Refuse a results folder of another study, or of another version of this one."""
    file = results / STUDY
    try:
        mark = read(file)
    except (OSError, ValueError) as error:
        msg = f"{file} cannot be read ({type(error).__name__}). Run the study first."
        raise UserError(msg) from None
    if mark.get("format") != FORMAT or mark.get("protocol") != study.protocol:
        msg = (
            f"{results} holds results of another version of the study {mark.get('study')!r}: its "
            "budget, settings, growth or metrics were others. Give another --results folder, or "
            "the study file as it was; seeds, folds, arms and networks may be added."
        )
        raise UserError(msg)
