"""The figures of a model card, each from facts alone; what is missing reads "not measured"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...data.manifest import Manifest
from ...data.scores import Interval, Scores, interval
from .facts import Facts

MISSING = "not measured"
_SPDX = {"Apache License, Version 2.0": "apache-2.0", "MIT License": "mit"}
_GROWTH = ("switch", "patience", "max_dendrites", "tries", "kind", "sets", "activation")
_EVENT = ("epoch", "event", "sets", "layers", "parameters", "dice_before", "dice_after")


def spdx(licence: str) -> str:
    """What the Hugging Face hub calls a licence."""
    return next((v for k, v in _SPDX.items() if licence.startswith(k)), "other")


def dendrites(record: dict[str, Any]) -> str:
    """How many sets of dendrites the network has, and on how many layers."""
    grown = record.get("dendrites") or {}
    sets = max((int(d["count"]) for d in grown.values()), default=0)
    return f"{sets} set(s) of dendrites on {len(grown)} layers" if grown else "no dendrites"


def channels(tensor: dict[str, Any]) -> str:
    """Channels of a tensor by name."""
    names = [str(v) for _, v in sorted(tensor.get("channel_def", {}).items())]
    return f"{tensor.get('num_channels', MISSING)} channel(s): {', '.join(names) or MISSING}"


def checked(manifest: Manifest) -> int:
    """Cases with checksums."""
    return sum(c is not None for c in manifest.cases.values())


def split_counts(facts: Facts) -> list[int]:
    """Cases that trained, validated and were kept apart; empty where no fold is known."""
    manifest, fold = facts.manifest, facts.trained.get("fold")
    if manifest is None or not isinstance(fold, int) or not manifest.folds:
        return []
    aside = set(held_out(facts))
    used = [set(manifest.part(name, fold)) - aside for name in ("train", "validation")]
    return [*map(len, used), len(manifest.test) + len(aside)]


def held_out(facts: Facts) -> list[str]:
    """Cases of the fold that a study kept from the training of this network."""
    fold = facts.trained.get("test_fold")
    if facts.manifest is None or not isinstance(fold, int):
        return []
    return facts.manifest.part("validation", fold)


def growth(settings: dict[str, Any]) -> str:
    """Settings of growth that say most."""
    said = [(k, settings[k]) for k in (*_GROWTH, "initialisation") if settings.get(k)]
    return ", ".join(f"{key} {_kinds(value) if key == 'sets' else value}" for key, value in said)


def _kinds(sets: list[dict[str, Any]]) -> str:
    return " and ".join(str(entry.get("kind")) for entry in sets)


def score_rows(scores: Scores) -> list[list[str]]:
    """A row a column of the evaluation: mean over cases with its 95 % interval."""
    return [[_label(n), *_cells(interval(v), n)] for n, v in scores.columns.items()]


def structure_table(events: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every growth, with Dice before and after it."""
    rows = [[_short(event.get(key)) for key in _EVENT] for event in events]
    return table([key.replace("_", " ") for key in _EVENT], rows)


def spans(ranges: dict[str, Any]) -> str:
    """Sizes of the training volumes along each axis."""
    pairs = zip(ranges["axes"], ranges["size_mm"], strict=True)
    return "; ".join(f"{axis} {low:g} to {high:g} mm" for axis, (low, high) in pairs)


def unmeasured(facts: Facts) -> list[str]:
    """Names of what no file of the bundle holds a figure for."""
    held_out = facts.scores is not None and facts.scores.about.get("part") == "test"
    missing = {
        "Dice per class": facts.scores is None,
        "Dice on the test part": not held_out,
        "other seeds and folds": True,
        "other data than the manifest's": True,
        "latency and memory": not facts.parity,
        "any GPU": not any("cuda" in row["name"] for row in facts.parity.get("rows", [])),
    }
    return [name for name, absent in missing.items() if absent]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def part(facts: Facts) -> str:
    """Which cases were scored, and whether training saw them."""
    about = facts.scores.about if facts.scores else {}
    name, fold = about.get("part"), about.get("fold")
    if name == "test":
        return "the test part, which no training saw"
    if name == "validation" and fold == facts.trained.get("fold"):
        return (
            f"the validation part of inner fold {fold}: it was not trained on, but it chose the "
            "epoch and steered growth, so the figures are optimistic"
        )
    if name == "validation" and fold == facts.trained.get("test_fold"):
        return f"the validation part of inner fold {fold}, which a study kept from this training"
    if name == "validation":
        return f"the validation part of inner fold {fold}, which training saw"
    return f"part {name}, which includes cases that training saw"


def _label(column: str) -> str:
    kind, _, name = column.partition("_")
    if column.startswith("hd95_mm_"):
        kind, name = "HD95 (mm)", column.removeprefix("hd95_mm_")
    return f"{kind.capitalize() if kind == 'dice' else kind}, {name.replace('_', ' ')}"


def _cells(scores: Interval | None, column: str) -> list[str]:
    digits = 4 if column.startswith("dice") else 2
    if scores is None:
        return [MISSING, MISSING, "", "", "0"]
    limits = MISSING
    if scores.low is not None and scores.high is not None:
        # Neither can be negative, and Dice is 1 at the most; with few cases t reaches beyond.
        low, high = max(scores.low, 0.0), min(scores.high, 1.0 if digits == 4 else scores.high)
        limits = f"{low:.{digits}f} to {high:.{digits}f}"
    extremes = [f"{v:.{digits}f}" for v in (scores.lowest, scores.highest)]
    return [f"{scores.mean:.{digits}f}", limits, *extremes, str(scores.cases)]


def cost(row: dict[str, Any]) -> list[str]:
    """Cells of one format or engine."""
    ms, memory, size = row["ms_per_patch"], row["peak_memory_mib"], row["file_bytes"]
    return [
        str(row["name"]),
        "" if size is None else f"{size / 1e6:.2f} MB",
        f"{ms['median']:.1f} ({ms['q1']:.1f}–{ms['q3']:.1f})",
        MISSING if memory is None else f"{memory:.0f} MiB",
        f"{row['label_agreement']:.4%}",
    ]


def _short(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:.4f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
