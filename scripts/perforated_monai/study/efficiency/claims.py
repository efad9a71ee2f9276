"""What was claimed for dendritic compression, beside what was measured for the same comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.reading import from_yaml, read_text, reason_of
from ...data.scores import interval
from ...errors import UserError
from ..across import HEADER, NONE, across
from ..comparisons import Comparisons
from ..results import StudyResults
from ..study_file import load_study
from ..trial import places_of
from .figure import number
from .subject import Subject

QUANTITIES = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "file_bytes": "file",
    "ms_1": "time, one thread",
    "ms_gpu": "time, GPU",
    "peak_memory_mib": "memory",
    "joules": "energy",
}
NO_GPU, NO_METER = "no GPU", "no meter"  # a cell is a number or the reason why there is none
REASONS = {"ms_gpu": f"{NONE} ({NO_GPU})", "joules": f"{NONE} ({NO_METER})"}
_KEYS = {"claim", "network", "against", "quantities", "study", "study_network"}


@dataclass(frozen=True)
class Claim:
    """One sentence of others, and how it is checked here.

    Attributes:
        claim: the sentence.
        network, against: names of subjects; "" where the study alone answers.
        quantities: of ``QUANTITIES``; Dice is always compared.
        study, study_network: a study file, and the network in it, whose controls belong here.
    """

    claim: str
    network: str
    against: str
    quantities: tuple[str, ...]
    study: Path | None
    study_network: str


def read_claims(file: str | Path) -> list[Claim]:
    """A YAML list of mappings with the fields of ``Claim``; study files lie relative to it.

    Raises:
        UserError: for a file that cannot be read, an unknown key or quantity.
    """
    path = Path(file)
    try:
        entries = from_yaml(read_text(path))
    except (OSError, ValueError) as error:
        msg = f"{path} must be a YAML list of claims; got {reason_of(error)}. Correct it."
        raise UserError(msg) from None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        msg = f"{path} must be a YAML list of mappings; got {type(entries).__name__}."
        raise UserError(msg)
    return [_claim(path, entry) for entry in entries]


def _claim(path: Path, entry: Mapping[str, Any]) -> Claim:
    pair = ("network", "against")
    alone = entry.get("study") and not any(k in entry for k in pair)
    needed = ("claim",) if alone else ("claim", *pair)
    missing = [k for k in needed if not isinstance(entry.get(k), str)]
    unknown = [k for k in entry if k not in _KEYS]
    quantities = entry.get("quantities", ["parameters"])
    if missing or unknown:
        wrong = f"lacks {missing[0]}" if missing else f"has {unknown[0]!r}"
        msg = f"{path}: a claim has the keys {', '.join(sorted(_KEYS))}; one {wrong}. Correct it."
        raise UserError(msg)
    other = [q for q in quantities if q not in QUANTITIES] if isinstance(quantities, list) else [""]
    if other:
        msg = f"{path}: quantities must be a list of {', '.join(QUANTITIES)}; got {quantities!r}."
        raise UserError(msg)
    study = path.parent / entry["study"] if entry.get("study") else None
    named = str(entry.get("study_network", ""))
    return Claim(
        *(entry["claim"], entry.get("network", ""), entry.get("against", "")),
        *(tuple(quantities), study, named),
    )


def measured(claim: Claim, subjects: Sequence[Subject], rows: Mapping[str, Any]) -> str:
    """The same comparison here, in words; "" where the study alone answers."""
    if not claim.network:
        return ""
    known = {s.name: s for s in subjects}
    missing = [name for name in (claim.network, claim.against) if name not in known]
    if missing:
        return f"not measured ({' and '.join(missing)} not given)"
    parts = []
    for key in claim.quantities:
        small, large = (number(rows[n][key]) for n in (claim.network, claim.against))
        unknown = None in (small, large) or not large
        change = REASONS.get(key, NONE) if unknown else _percent(small, large)
        parts.append(f"{QUANTITIES[key]} {change}")
    parts.append(_dice(known[claim.network], known[claim.against]))
    return f"{claim.network} against {claim.against}: " + ", ".join(parts)


def _percent(small: float | None, large: float | None) -> str:
    assert small is not None and large is not None
    return f"{100 * (small / large - 1):+.1f} %"


def _dice(subject: Subject, other: Subject) -> str:
    """Difference in points; paired where both have the same cases."""
    shared = sorted(subject.cases.keys() & other.cases.keys())
    if len(shared) > 1 and len(shared) == len(subject.cases) == len(other.cases):
        points = interval([100 * (subject.cases[c] - other.cases[c]) for c in shared])
        assert points is not None
        return (
            f"Dice {points.mean:+.2f} points (95 % {points.low:+.2f} to {points.high:+.2f}, "
            f"{points.cases} cases, one run each)"
        )
    here, there = subject.mean_dice, other.mean_dice
    if here is None or there is None:
        return "Dice not measured"
    return f"Dice {100 * (here.mean - there.mean):+.2f} points (one run each, no interval)"


def controls(claim: Claim) -> Iterator[str]:
    """What the study's controls say, a line a comparison."""
    if claim.study is None:
        return
    study = load_study(claim.study)
    data = Comparisons(study, StudyResults(places_of(study)))
    for found in across(data):
        if found.comparison is None:
            yield f"{study.name}, {found.arm} against {found.against}: no seed is done in both"
            continue
        cells = dict(zip(HEADER, found.row(), strict=True))
        energy = cells["energy"] if cells["energy"] != NONE else REASONS["joules"]
        yield (
            f"{study.name}, {found.arm} against {found.against}: Dice {cells['Dice']} (95 % "
            f"{cells['95 %']}, {cells['seeds']} seeds), parameters {cells['parameters']}, memory "
            f"{cells['memory']}, CPU time {cells['CPU time']}, energy {energy}; "
            f"{cells['allowed']} met: {cells['met']}"
        )
    network = claim.study_network or study.networks[0]
    judged = data.judged(network, "dice")
    if not judged:
        yield f"{study.name}: not measured"
    for (arm, control), comparison in judged.items():
        ends = comparison.reported
        span = f" (95 % {100 * ends.low:+.2f} to {100 * ends.high:+.2f})"
        yield (
            f"{study.name}, {arm} − {control}: {100 * ends.mean:+.2f} points"
            f"{span if comparison.over_seeds.n > 1 else ''}, {comparison.verdict}"
        )
