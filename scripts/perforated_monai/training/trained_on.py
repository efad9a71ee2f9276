"""What a run trains and validates on: a checksum of every file, kept and compared on resume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import hash_of

# Part of the data -> its cases in order; each holds its name and, by key, the sha256 of its files.
TrainedOn = dict[str, list[dict[str, str]] | None]

_THREADS = 4  # hashing lets other threads run, and waits for the disk
_MOST_NAMED = 3


def trained_on(trainer: Any, evaluator: Any) -> TrainedOn:
    """Checksums of the files in the datalists of a trainer and its evaluator.

    Time stamps say nothing: copies keep them, and archives set them. A part is None where its
    dataset keeps no list of mappings under ``data``, as MONAI's and ours do.
    """
    engines = {"training": trainer, "validation": evaluator}
    return {part: _cases(engine) for part, engine in engines.items()}


def refuse_changed_data(folder: Path, before: TrainedOn, now: TrainedOn) -> None:
    """Refuse to continue a run on other data than it began with.

    Args:
        folder: of the run, for the message.
        before, now: what the run began with, and what it would go on with.

    Raises:
        UserError: naming the first files that differ.
    """
    changed = [line for part in before for line in _differences(part, before, now)]
    if changed:
        more = f" and {len(changed) - _MOST_NAMED} more" if changed[_MOST_NAMED:] else ""
        msg = (
            f"{folder} holds a run that began on other data ({'; '.join(changed[:_MOST_NAMED])}"
            f"{more}). Put the files back to continue it, or choose another output_dir."
        )
        raise UserError(msg)


def is_record(value: Any) -> bool:
    """Whether what a file holds is a record, or None where it keeps none."""
    parts = value.values() if isinstance(value, dict) else []
    cases = [case for part in parts if isinstance(part, list) for case in part]
    return value is None or (
        isinstance(value, dict)
        and set(value) == {"training", "validation"}
        and all(part is None or isinstance(part, list) for part in parts)
        and all(isinstance(case, dict) and isinstance(case.get("case"), str) for case in cases)
    )


def _cases(engine: Any) -> list[dict[str, str]] | None:
    data = getattr(getattr(getattr(engine, "data_loader", None), "dataset", None), "data", None)
    if not isinstance(data, (list, tuple)) or not all(isinstance(c, Mapping) for c in data):
        return None
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_case, data))


def _case(case: Mapping[str, Any]) -> dict[str, str]:
    sums = {str(key): _checksum(files) for key in case if (files := list(_files(case[key])))}
    first = next((file for key in case for file in _files(case[key])), None)
    name = case.get("case") or (first.name if first is not None else "?")
    return {"case": str(name), **sums}


def _files(value: Any) -> Iterator[Path]:
    """The files that a value of a datalist names; a folder, as of DICOM slices, gives its own."""
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _files(each)
    elif isinstance(value, (str, os.PathLike)):
        path = Path(value)
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.is_file())
        elif path.is_file():  # a pipe would never end
            yield path


def _checksum(files: list[Path]) -> str:
    """sha256 of a file, or over those of several."""
    try:
        sums = [hash_of(file) for file in files]
    except OSError as error:
        msg = f"{error.filename} cannot be read ({error.strerror}). Correct its rights."
        raise UserError(msg) from error
    return sums[0] if len(sums) == 1 else hashlib.sha256(" ".join(sums).encode()).hexdigest()


def _differences(part: str, before: TrainedOn, now: TrainedOn) -> Iterator[str]:
    was, is_now = before[part], now.get(part)
    if was is None or is_now is None:
        if was != is_now:
            yield f"{part}: its datalist {'cannot be seen now' if was else 'was not seen then'}"
        return
    old, new = [case["case"] for case in was], [case["case"] for case in is_now]
    if old != new:
        yield from (f"{part}: {name} is gone" for name in old if name not in new)
        yield from (f"{part}: {name} is new" for name in new if name not in old)
        if sorted(old) == sorted(new):
            yield f"{part}: another order of the cases"
        return
    for a, b in zip(was, is_now, strict=True):
        for key in sorted((a.keys() | b.keys()) - {"case"}):
            if a.get(key) != b.get(key):
                yield f"{part}: {key} of {a['case']} {'changed' if key in b else 'is missing'}"
