"""What an output folder says of its cases, read from its two records and compared with training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....errors import UserError
from ....files import sha256
from ..run_record import RunRecord, read_record
from ..table import DONE, FAILED, CaseLog, Row, key_of
from ..volumes import OUTLIER, TrainingVolumes

_VOLUME, _COMPONENTS = "volume_ml_", "components_"
_PARTS = ("read", "network", "write")
# Said where the reason is an error of Python, which names no cure of its own.
_CURE = "Open the scan in a viewer; if it is whole, report this as a fault."


@dataclass(frozen=True)
class Measured:
    """A structure in a mask: volume in mL, connected components, and robust z-score in training."""

    ml: float
    components: int | None
    z: float | None

    @property
    def outlier(self) -> bool:
        """Beyond ±3.5."""
        return self.z is not None and abs(self.z) > OUTLIER


@dataclass(frozen=True)
class CaseResult:
    """A case of the run.

    Attributes:
        name: as in the table.
        done: whether it has a mask.
        reason: why it has none, with the cure.
        notes: what was unusual.
        measured: a structure each, in the order of the results; None where nothing was measured.
        confidence: mean over all structures.
        seconds: reading, network and writing.
        mask_sha256: empty for a failed case.
        input_sha256: of its files.
    """

    name: str
    done: bool
    reason: str
    notes: list[str]
    measured: list[Measured | None]
    confidence: float | None
    seconds: float
    mask_sha256: str
    input_sha256: str

    @property
    def outlier(self) -> bool:
        """Any of its volumes is."""
        return any(m is not None and m.outlier for m in self.measured)

    @property
    def farthest(self) -> float | None:
        """The z-score farthest from 0."""
        scores = [m.z for m in self.measured if m is not None and m.z is not None]
        return max(scores, key=abs, default=None)


@dataclass(frozen=True)
class Results:
    """A run.

    Attributes:
        record: what it was made with.
        structures: their names.
        training: volumes in training, in the same order; None where the bundle has none.
        cases: in the order of the table.
        run: id of exactly these masks; reviews carry it.
    """

    record: RunRecord
    structures: list[str]
    training: list[TrainingVolumes | None]
    cases: list[CaseResult]
    run: str

    @property
    def done(self) -> list[CaseResult]:
        """Cases with a mask."""
        return [case for case in self.cases if case.done]

    @property
    def failed(self) -> list[CaseResult]:
        """Cases without."""
        return [case for case in self.cases if not case.done]

    def volumes(self, structure: int) -> dict[str, float]:
        """Case -> mL of a structure."""
        found = {case.name: case.measured[structure] for case in self.done}
        return {name: m.ml for name, m in found.items() if m is not None}


def read_results(folder: Path) -> Results:
    """Read ``run.json`` and ``cases.jsonl``.

    Raises:
        UserError: a folder that is no result of ``segment``, one without a case, or a damaged row.
    """
    record = read_record(folder)
    rows = list(CaseLog(folder, ()).read().values())
    if not rows:
        msg = f"{folder} has no case in cases.jsonl: nothing to show. Segment again."
        raise UserError(msg)
    keys = _structures(rows)
    names = {key_of(n): n for n in (*record.channel_names.values(), *record.labels.values())}
    structures = [names.get(key, key.replace("_", " ")) for key in keys]
    known = record.volumes
    training = [known.get(name) for name in structures]
    try:
        cases = [_case(row, keys, training, record) for row in rows]
    except (TypeError, ValueError, KeyError) as error:
        msg = (
            f"{folder / 'cases.jsonl'} has a damaged row ({type(error).__name__}). "
            "Segment again with --resume."
        )
        raise UserError(msg) from None
    masks = sorted((case.name, case.mask_sha256) for case in cases)
    run = sha256(repr((record.settings, masks)).encode())[:16]
    return Results(record, structures, training, cases, run)


def _structures(rows: list[Row]) -> list[str]:
    keys = (k.removeprefix(_VOLUME) for row in rows for k in row if k.startswith(_VOLUME))
    return list(dict.fromkeys(keys))


def _case(
    row: Row, keys: list[str], training: Sequence[TrainingVolumes | None], record: RunRecord
) -> CaseResult:
    if row["status"] not in (DONE, FAILED):
        raise ValueError(row["status"])
    notes = [str(note) for note in row.get("notes", [])]
    if row.get("settings") != record.settings:
        notes.append("made by an earlier run with other settings")
    confidence = row.get("confidence_mean")
    return CaseResult(
        name=str(row["case"]),
        done=row["status"] == DONE,
        reason=_with_cure(str(row.get("reason", ""))),
        notes=notes,
        measured=[_measured(row, k, t) for k, t in zip(keys, training, strict=True)],
        confidence=None if confidence is None else float(confidence),
        seconds=sum(float(row.get(f"seconds_{part}") or 0) for part in _PARTS),
        mask_sha256=str(row.get("mask_sha256") or ""),
        input_sha256=str(row.get("input_sha256") or ""),
    )


def _measured(row: Row, key: str, training: TrainingVolumes | None) -> Measured | None:
    if row.get(_VOLUME + key) is None:
        return None
    ml, components = float(row[_VOLUME + key]), row.get(_COMPONENTS + key)
    z = training.robust_z(ml) if training is not None else None
    return Measured(ml, None if components is None else int(components), z)


def _with_cure(reason: str) -> str:
    kind = reason.partition(":")[0]
    bare = kind.isidentifier() and kind.endswith(("Error", "Exception"))
    return f"{reason.rstrip('.')}. {_CURE}" if bare else reason
