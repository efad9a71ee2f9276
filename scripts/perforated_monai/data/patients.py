"""Which patient a case is of: by a pattern over case ids, or by a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .layout import case_id

_MOST_NAMED = 5


@dataclass(frozen=True)
class Patients:
    """The rule that names the patient of each case.

    Attributes:
        source: a regular expression, searched in the case id (its group `patient`, or its only
            group, or all that it matches is the patient); or a `.csv` file with the columns `case`
            and `patient`, where `FILE.csv:COLUMN` names another column; a case may be its file's
            name.
    """

    source: str

    def of(self, cases: list[str]) -> dict[str, str]:
        """Id -> patient of all cases.

        Raises:
            UserError: no pattern and no table, cases without a patient, one patient for all of
                several cases, or a pattern that takes the whole id of each.
        """
        table = re.fullmatch(r"(.+\.csv)(?::(.+))?", self.source)
        if table:
            found = self._of_table(Path(table[1]).expanduser(), table[2] or "patient", cases)
        else:
            found = self._of_pattern(cases)
        bare = [case for case in cases if case not in found]
        if bare:
            named = ", ".join(bare[:_MOST_NAMED])
            named += f" and {len(bare) - _MOST_NAMED} more" if bare[_MOST_NAMED:] else ""
            msg = (
                f"--patient {self.source!r} must name the patient of every case; it names none for "
                f"{len(bare)} of {len(cases)}: {named}. Correct the pattern or the table."
            )
            raise UserError(msg)
        if len(cases) > 1 and len(set(found.values())) == 1:
            msg = (
                f"--patient {self.source!r} must tell patients apart; it gives all {len(cases)} "
                f"cases the patient {found[cases[0]]!r}. Put what differs between patients into "
                r"a group, as in 'study_(p\d+)'."
            )
            raise UserError(msg)
        return found

    def _of_pattern(self, cases: list[str]) -> dict[str, str]:
        try:
            pattern = re.compile(self.source)
        except re.error as error:
            msg = f"--patient {self.source!r} is no regular expression: {error}. Correct it."
            raise UserError(msg) from error
        if pattern.groups > 1 and "patient" not in pattern.groupindex:
            msg = (
                f"--patient {self.source!r} must have one group, or one named (?P<patient>...); it "
                f"has {pattern.groups}. Write the others as (?:...)."
            )
            raise UserError(msg)
        group: str | int = "patient" if "patient" in pattern.groupindex else min(1, pattern.groups)
        matches = {case: pattern.search(case) for case in cases}
        found = {case: m[group] for case, m in matches.items() if m is not None and m[group]}
        if len(cases) > 1 and all(found.get(case) == case for case in cases):
            msg = (
                f"--patient {self.source!r} must leave out what differs between volumes of a "
                f"patient; it takes the whole id of every case, as {cases[0]!r}. Leave --patient "
                "out when each volume is a patient of its own."
            )
            raise UserError(msg)
        return found

    def _of_table(self, file: Path, column: str, cases: list[str]) -> dict[str, str]:
        try:
            with file.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream)
                rows, columns = list(reader), list(reader.fieldnames or [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            msg = f"table of patients {file} cannot be read: {error}. Correct --patient."
            raise UserError(msg) from error
        for name in ("case", column):
            if name not in columns:
                msg = (
                    f"table of patients {file} must have the columns case and {column}; it has "
                    f"{', '.join(columns) or 'none'}. Name the patient's column as FILE.csv:COLUMN."
                )
                raise UserError(msg)
        found: dict[str, str] = {}
        for row in rows:
            case = case_id((row["case"] or "").strip())
            patient = (row[column] or "").strip()
            if found.get(case, patient) != patient:
                msg = (
                    f"table of patients {file} must name one patient of case {case}; it names "
                    f"{found[case]} and {patient}. Remove one row."
                )
                raise UserError(msg)
            if patient:
                found[case] = patient
        return {case: found[case] for case in cases if case in found}


def in_two_parts(
    patients: dict[str, str], parts: dict[str, str]
) -> Iterable[tuple[str, dict[str, str]]]:
    """Each patient with cases in two parts of a split, with one case of each of those parts.

    Args:
        patients: id -> patient.
        parts: id -> "test" or "fold K".
    """
    places: dict[str, dict[str, str]] = {}
    for case, patient in sorted(patients.items()):
        if case in parts:
            places.setdefault(patient, {}).setdefault(parts[case], case)
    return ((patient, where) for patient, where in sorted(places.items()) if len(where) > 1)
