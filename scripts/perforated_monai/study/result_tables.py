"""The tables of a study's results: ``trials.csv``, ``cases.csv``, ``epochs.csv``, ``study.json``.

Numbers are written as Python's ``repr``, so that reading gives them back to the last bit.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.reading import read
from ..data.scores import TABLE, CaseRow, case_table, read_cases
from ..errors import UserError
from ..files import csv_text, from_csv_text, sha256, write_json, write_text
from .study_file import FORMAT, Study
from .sweep_space import NAMES
from .trial import Trial
from .trial_rows import SCORES, Environment, Event, Measurement, TrialRow

STUDY, TRIALS, CASES, EPOCHS = "study.json", "trials.csv", TABLE, "epochs.csv"

_KEY = ("network", "arm", "seed", "fold")
_SWEEP = "sweep_"  # columns of what a sweep chose
_NO_LIST = "null"
# Keys of events that have a column; what else an event holds is JSON in the column `details`.
_NUMBERS = ("loss", "dice", "dendrite_sets", "parameters", "seconds")
_LISTS = ("dice_per_class", "lr")


@dataclass
class Tables:
    """Everything that the tables hold, by trial.

    Attributes:
        rows: what became of a trial.
        cases, history: test cases and events of the trials that are done.
        configs: path of a key such as ``train::handlers::3::epochs`` -> value.
    """

    rows: dict[Trial, TrialRow] = field(default_factory=dict)
    cases: dict[Trial, list[CaseRow]] = field(default_factory=dict)
    history: dict[Trial, list[Event]] = field(default_factory=dict)
    configs: dict[Trial, dict[str, Any]] = field(default_factory=dict)


def read_tables(results: Path) -> Tables:
    """The tables of a results folder; empty where nothing was collected yet.

    Raises:
        UserError: for a table that was changed by hand, is missing or cannot be read.
    """
    file = results / STUDY
    tables = Tables()
    try:
        about = read(file) if file.exists() else {}
        hashes = about.get("tables", {})
        texts = {name: (results / name).read_text(encoding="utf-8") for name in hashes}
        changed = [name for name, text in texts.items() if sha256(text.encode()) != hashes[name]]
        if changed:
            msg = (
                f"{results / changed[0]} must be as study collect wrote it; it was changed. "
                "Restore it, or remove the tables and collect the raw folders again."
            )
            raise UserError(msg)
        if hashes:
            made_in = [Environment(**e) for e in about["environments"]]
            shared = about["config"]
            for row in _parsed(texts[TRIALS]):
                trial_row = _row(row, made_in)
                tables.rows[trial_row.trial] = trial_row
            for case in read_cases(results / CASES):
                own = CaseRow(case.case, case.values)
                tables.cases.setdefault(_trial(case.trial), []).append(own)
            for row in _parsed(texts[EPOCHS]):
                tables.history.setdefault(_trial(row), []).append(_event(row))
            for trial in tables.cases:
                tables.configs[trial] = shared | about["trials"][trial.id]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        msg = (
            f"{results} must hold {STUDY} with the tables that it names; reading them gives "
            f"{type(error).__name__}: {str(error)[:120]}. Restore them from git."
        )
        raise UserError(msg) from None
    return tables


def write_tables(study: Study, results: Path, tables: Tables) -> None:
    """Write the three tables, then ``study.json`` with their hashes.

    ``study.json`` holds the protocol, with which code and packages trials ran, the configuration
    that all of them share, and what each has of its own.
    """
    made_in: list[Environment] = []
    for row in tables.rows.values():
        if row.measured is not None and row.measured.environment not in made_in:
            made_in.append(row.measured.environment)
    texts = {
        TRIALS: _trials_text(tables, made_in),
        CASES: _cases_text(tables),
        EPOCHS: _text(
            [*_KEY, "event", "epoch", *_NUMBERS, *_LISTS, "details"],
            (
                _key(trial) | _event_cells(event)
                for trial, events in tables.history.items()
                for event in events
            ),
        ),
    }
    shared, own = _shared(tables.configs)
    for name, text in texts.items():
        write_text(results / name, text)
    about = mark_of(study) | {
        "tables": {name: sha256(text.encode()) for name, text in texts.items()},
        "environments": [dataclasses.asdict(e) for e in made_in],
        "config": shared,
        "trials": {trial.id: config for trial, config in own.items()},
    }
    write_json(results / STUDY, about)


def mark_of(study: Study) -> dict[str, Any]:
    """What marks a results folder as that of one version of a study."""
    return {"format": FORMAT, "study": study.name, "protocol": study.protocol}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A configuration as paths of keys, joined by ``::`` as MONAI's parser takes them -> values.

    Lists of plain values stay whole.
    """
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        items = enumerate(value)
    else:
        return {path: value}
    paths: dict[str, Any] = {}
    for key, inner in items:
        paths |= flat(inner, f"{path}::{key}" if path else str(key))
    return paths


def _shared(
    configs: Mapping[Trial, dict[str, Any]],
) -> tuple[dict[str, Any], dict[Trial, dict[str, Any]]]:
    """What all configurations hold alike, and what each holds beside it."""
    every = list(configs.values())
    first = every[0] if every else {}
    shared = {k: v for k, v in first.items() if all(k in c and c[k] == v for c in every)}
    own = {t: {k: v for k, v in c.items() if k not in shared} for t, c in configs.items()}
    return shared, own


# -- rows of trials --------------------------------------------------------------------------


def _whole_numbers(cell: str) -> list[int]:
    return [int(word) for word in cell.split()]


# Column -> how its cell is read; the columns are fields of `Measurement`.
_MEASURED: dict[str, Callable[[str], Any]] = {
    "parameters": int,
    "flops": int,
    "epochs": int,
    "grow_epochs": _whole_numbers,
    "sets": int,
    "seconds": float,
    "best_epoch": int,
    "validation_dice": float,
    "channels": _whole_numbers,
    "file_bytes": int,
    "latency_ms": float,
    "peak_memory_mib": float,
    "cpu_minutes": float,
    "energy_joule": float,
}
_MAY_BE_EMPTY = ("peak_memory_mib", "energy_joule", "channels")


def _trials_text(tables: Tables, made_in: list[Environment]) -> str:
    rows = list(tables.rows.values())
    scores = _columns(row.measured.scores for row in rows if row.measured is not None)
    chosen = [_SWEEP + name for name in _columns(row.chosen for row in rows)]
    names = [*_KEY, "status", *_MEASURED, *scores, "environment", *chosen, "same_as", "reason"]
    return _text(names, (_trial_cells(row, made_in) for row in rows))


def _trial_cells(row: TrialRow, made_in: list[Environment]) -> dict[str, str]:
    cells = _key(row.trial) | {"status": row.status, "same_as": row.same_as, "reason": row.reason}
    cells |= {_SWEEP + name: _cell(value) for name, value in row.chosen.items()}
    if row.measured is None:
        return cells
    for name in _MEASURED:
        value = getattr(row.measured, name)
        cells[name] = " ".join(map(str, value)) if isinstance(value, list) else _cell(value)
    cells |= {column: _number(value) for column, value in row.measured.scores.items()}
    return cells | {"environment": str(made_in.index(row.measured.environment))}


def _row(cells: Mapping[str, str], made_in: list[Environment]) -> TrialRow:
    measured = None
    status: Any = cells["status"]
    if status == "done":
        values: dict[str, Any] = {
            name: None if name in _MAY_BE_EMPTY and not cells[name] else read(cells[name])
            for name, read in _MEASURED.items()
        }
        scores = {k: float(v) if v else math.nan for k, v in cells.items() if k.startswith(SCORES)}
        environment = made_in[int(cells["environment"])]
        measured = Measurement(**values, scores=scores, environment=environment)
    chosen = {
        (name := column.removeprefix(_SWEEP)): NAMES[name](cell)
        for column, cell in cells.items()
        if column.startswith(_SWEEP) and cell
    }
    return TrialRow(_trial(cells), status, measured, cells["reason"], cells["same_as"], chosen)


def _cases_text(tables: Tables) -> str:
    rows = [
        CaseRow(case.case, case.values, _key(trial))
        for trial, cases in tables.cases.items()
        for case in cases
    ]
    return case_table(rows, exact=True) if rows else _text([*_KEY, "case"], [])


# -- events ----------------------------------------------------------------------------------


def _event_cells(event: Event) -> dict[str, str]:
    cells: dict[str, str] = {}
    details: dict[str, Any] = {}
    for key, value in event.items():
        if key == "event":
            cells[key] = value
        elif key == "epoch" or (key in _NUMBERS and not isinstance(value, (list, dict, str))):
            cells[key] = json.dumps(value)
        elif key in _LISTS and value is None:
            cells[key] = _NO_LIST
        elif key in _LISTS and isinstance(value, list) and value:
            cells[key] = " ".join(map(json.dumps, value))
        else:
            details[key] = value
    return cells | ({"details": json.dumps(details)} if details else {})


def _event(cells: Mapping[str, str]) -> Event:
    event: Event = {"event": cells["event"]}
    event |= {name: json.loads(cells[name]) for name in ("epoch", *_NUMBERS) if cells[name]}
    for name in _LISTS:
        if cells[name] == _NO_LIST:
            event[name] = None
        elif cells[name]:
            event[name] = [json.loads(word) for word in cells[name].split()]
    return event | (json.loads(cells["details"]) if cells["details"] else {})


# -- cells -----------------------------------------------------------------------------------


def _key(trial: Trial) -> dict[str, str]:
    return {name: str(getattr(trial, name)) for name in _KEY}


def _trial(cells: Mapping[str, str]) -> Trial:
    return Trial(cells["network"], cells["arm"], int(cells["fold"]), int(cells["seed"]))


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every key of the rows, in the order in which they come first."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _number(value: float) -> str:
    """Empty for NaN: a class that is absent."""
    return "" if math.isnan(value) else repr(value)


def _text(names: list[str], rows: Iterable[Mapping[str, str]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_text(cell) for name, cell in row.items()} for row in rows)
    return buffer.getvalue()


def _parsed(text: str) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [{name: from_csv_text(cell) for name, cell in row.items()} for row in rows]
