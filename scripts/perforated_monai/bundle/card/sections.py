"""The sections of a model card, each from facts alone; what is missing reads "not measured"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...data.scores import Interval, interval
from .facts import Facts

MISSING = "not measured"
PHANTOMS = "Trained on synthetic phantoms, not for patients."
_SPDX = {"Apache License, Version 2.0": "apache-2.0", "MIT License": "mit"}


def front_matter(facts: Facts) -> Iterator[str]:
    """What the Hugging Face hub reads."""
    known = next((v for k, v in _SPDX.items() if facts.code_licence.startswith(k)), "other")
    yield from ("---", f"license: {known}", "library_name: monai")
    yield from ("pipeline_tag: image-segmentation", "tags:")
    yield from (f"- {tag}" for tag in ("monai", "medical", "3d", "segmentation", "dendrites"))
    yield from ("metrics:", "- dice", "---")


def model(facts: Facts) -> Iterator[str]:
    """What it is and what it takes and gives."""
    about, base = facts.metadata, facts.record.get("base") or {}
    formats = about.get("network_data_format", {})
    image = formats.get("inputs", {}).get("image", {})
    pred = formats.get("outputs", {}).get("pred", {})
    yield from (str(about.get("description", "")), "")
    yield f"- Version {about.get('version', MISSING)}; {about.get('task', '')}"
    grown = facts.record.get("dendrites") or {}
    sets = max((int(d["count"]) for d in grown.values()), default=0)
    shape = f"{sets} set(s) of dendrites on {len(grown)} layers" if grown else "no dendrites"
    widths = ", ".join(map(str, base.get("channels", [])))
    network = f"{base.get('name', MISSING)}{f', channels {widths}' if widths else ''}"
    yield f"- Network: {network}, {shape}"
    size = " × ".join(map(str, image.get("spatial_shape", [])))
    yield f"- Input: {named(image)}; {image.get('modality', '')}, windows of {size} voxels"
    yield f"- Output: {named(pred)}"


def data(facts: Facts) -> Iterator[str]:
    """Which cases trained, chose and were kept apart."""
    found, trained = facts.manifest, facts.trained
    if found is None:
        yield f"Data: {facts.metadata.get('data_source', MISSING)}. No manifest in the bundle."
        return
    checked = sum(c is not None for c in found.cases.values())
    yield f"- {found.name} {found.version}, licence {found.licence}: {found.citation}"
    yield f"- Source: {found.source_url or 'none'}; {found.modality}"
    yield f"- {len(found.cases)} cases, {checked} of them with checksums. {found.note}".rstrip()
    if found.generator is not None:
        settings = ", ".join(f"{k} {v}" for k, v in found.generator.items())
        yield f"- Synthetic volumes: {settings}"
    fold = trained.get("fold")
    if isinstance(fold, int) and found.folds:
        parts = ("train", "validation", "test")
        counts = [len(found.part(p, fold)) if p != "test" else len(found.test) for p in parts]
        yield (
            f"- Split: inner fold {fold} of {len(found.folds)}: {counts[0]} cases trained, "
            f"{counts[1]} validated, {counts[2]} kept apart as a test part"
        )
    wanted = trained.get("manifest_sha256")
    if facts.same_manifest:
        yield "- This is, by its hash, the manifest that training read."
    elif wanted:
        yield (
            f"- Training read a file of another hash ({wanted[:16]}…): the counts are those of the "
            "manifest in this bundle."
        )


def training(facts: Facts) -> Iterator[str]:
    """How long, from what seed, and with which versions."""
    trained = facts.trained
    if not trained:
        yield f"Training: {MISSING}."
        return
    yield (
        f"- {trained['epochs']} epochs, best at epoch {trained['best_epoch']} (validation Dice "
        f"{trained['validation_dice']:.4f} there); seed {trained.get('seed')}, one run"
    )
    if settings := trained.get("dendrites"):
        words = ", ".join(
            f"{k} {settings[k]}"
            for k in (
                "switch",
                "patience",
                "max_dendrites",
                "tries",
                "kind",
                "layers",
                "activation",
                "initialisation",
            )
            if k in settings
        )
        yield f"- Growth: {words}"
    versions = trained.get("versions") or {}
    yield f"- {', '.join(f'{name} {version}' for name, version in versions.items())}"


def scores(facts: Facts) -> Iterator[str]:
    """Mean over cases with its 95 % interval, a row a column of the evaluation."""
    if facts.scores is None:
        reason = f" ({facts.scores_reason})" if facts.scores_reason else ""
        yield f"Dice per class: {MISSING}{reason}."
        return
    about = facts.scores.about
    yield f"{about['cases']} cases, {_part(facts)}; `evaluate.json`, docs/cases.csv."
    yield ""
    rows = [[_label(n), *_cells(interval(v), n)] for n, v in facts.scores.columns.items()]
    head = ["", "mean", "95 % interval", "lowest", "highest", "cases"]
    yield from table(head, rows)
    yield ""
    yield (
        "The interval is that of the mean over cases (Student's t, cut at 0 and for Dice at 1): "
        "how far the mean would move with other cases of the same kind, not with other seeds, "
        "folds or hospitals."
    )


def size(facts: Facts) -> Iterator[str]:
    """Parameters, FLOPs, and time and memory of each format and engine."""
    parameters = facts.record.get("parameters")
    if parameters:
        yield (f"- Parameters: {parameters['total']:,} ({parameters['base']:,} without dendrites)")
    else:
        yield f"- Parameters: {MISSING}"
    found = facts.parity
    if not found:
        yield from (f"- FLOPs: {MISSING}", f"- Latency: {MISSING}", f"- Memory: {MISSING}")
        return
    patch = " × ".join(map(str, found["patch"]))
    flops = found["flops"]
    yield (
        f"- FLOPs: {flops['total'] / 1e9:.2f} G a window of {patch} ({flops['base'] / 1e9:.2f} G "
        "without dendrites)"
    )
    machine = found["machine"]
    yield (
        f"- Latency and memory, {found['volumes']}, {found['batch']} windows at a time, on "
        f"{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}:"
    )
    yield ""
    rows = [_cost(row) for row in found["rows"]]
    yield from table(["", "file", "ms a window (quartiles)", "peak memory", "equal labels"], rows)
    yield ""
    yield (
        "Peak memory is what one more call takes (engines that keep their buffers show less); "
        f"equal labels are those of {found['reference']}."
    )


def structure(facts: Facts) -> Iterator[str]:
    """Every growth, with Dice before and after it."""
    if not facts.trained:
        yield f"Structure history: {MISSING}."
        return
    events = facts.trained.get("structure_history") or []
    if not events:
        yield "The structure never changed: no dendrites were added."
        return
    keys = ("epoch", "event", "sets", "layers", "parameters", "dice_before", "dice_after")
    rows = [[_short(event.get(key)) for key in keys] for event in events]
    yield from table([key.replace("_", " ") for key in keys], rows)


def limits(facts: Facts) -> Iterator[str]:
    """What the files themselves say against relying on it."""
    if facts.metadata.get("segment", {}).get("phantom_weights"):
        yield f"- **{PHANTOMS}**"
    if facts.trained:
        yield "- One run, one seed: nothing here compares training methods."
    ranges = facts.metadata.get("segment", {}).get("training_ranges")
    if ranges:
        spans = "; ".join(
            f"{axis} {low:g} to {high:g} mm"
            for axis, (low, high) in zip(ranges["axes"], ranges["size_mm"], strict=True)
        )
        yield (
            f"- Trained on volumes of {spans} ({ranges['cases']} cases); `segment` refuses others "
            f"beyond a factor of {ranges['tolerance']}."
        )
    if facts.limitations:
        yield f"- {' '.join(facts.limitations.split())}"
    yield f"- {', '.join(unmeasured(facts))}: {MISSING}."


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


def licences(facts: Facts) -> Iterator[str]:
    """Of code, weights and data."""
    yield f"- Code and weights: {facts.code_licence or MISSING} (file LICENSE)"
    data_licence = facts.manifest.licence if facts.manifest else MISSING
    yield f"- Data: {data_licence} (docs/data_license.txt). No data are part of the bundle."


def named(tensor: dict[str, Any]) -> str:
    """Channels of a tensor by name."""
    names = [str(v) for _, v in sorted(tensor.get("channel_def", {}).items())]
    return f"{tensor.get('num_channels', MISSING)} channel(s): {', '.join(names) or MISSING}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _part(facts: Facts) -> str:
    about = facts.scores.about if facts.scores else {}
    part, fold = about.get("part"), about.get("fold")
    if part == "test":
        return "the test part, which no training saw"
    if part == "validation" and fold == facts.trained.get("fold"):
        return (
            f"the validation part of inner fold {fold}: it was not trained on, but it chose the "
            "epoch and steered growth, so the figures are optimistic"
        )
    if part == "validation":
        return f"the validation part of inner fold {fold}, which training saw"
    return f"part {part}, which includes cases that training saw"


def _label(column: str) -> str:
    kind, _, name = column.partition("_")
    if column.startswith("hd95_mm_"):
        kind, name = "HD95 (mm)", column.removeprefix("hd95_mm_")
    return f"{kind.capitalize() if kind == 'dice' else kind}, {name.replace('_', ' ')}"


def _cells(found: Interval | None, column: str) -> list[str]:
    digits = 4 if column.startswith("dice") else 2
    if found is None:
        return [MISSING, MISSING, "", "", "0"]
    limits = MISSING
    if found.low is not None and found.high is not None:
        # Neither can be negative, and Dice is 1 at the most; with few cases t reaches beyond.
        low, high = max(found.low, 0.0), min(found.high, 1.0 if digits == 4 else found.high)
        limits = f"{low:.{digits}f} to {high:.{digits}f}"
    extremes = [f"{v:.{digits}f}" for v in (found.lowest, found.highest)]
    return [f"{found.mean:.{digits}f}", limits, *extremes, str(found.cases)]


def _cost(row: dict[str, Any]) -> list[str]:
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
