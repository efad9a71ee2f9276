"""The report of a study: one self-contained HTML page and a Markdown copy, the verdict first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..files import write_text
from . import figures
from .arms import WHAT, variant_text
from .collect import Collected
from .markdown import markdown as as_markdown
from .runner import trials_of
from .statistics import FEWEST_SEEDS, Comparison
from .study_file import Study
from .tables import DIFFERENCES, NONE, arm_row, difference_row, header, points
from .trial import Places

_BESIDE = {
    "wide": "an equally large plain network",
    "wide_flops": "a plain network of equal FLOPs",
    "branch": "ordinary parallel convolutions",
    "base_long": "the plain network with the same restarts",
    "base": "the plain network",
}


@dataclass
class Block:
    """One network of the report."""

    network: str
    verdicts: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)
    arms: list[list[str]] = field(default_factory=list)
    differences: dict[str, list[list[str]]] = field(default_factory=dict)
    pictures: list[tuple[str, Markup]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_report(study: Study, places: Places, images: bool = False) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into the results folder.

    Args:
        study: the study.
        places: where its results lie.
        images: show the worst cases on slices of the images; without, outlines alone.

    Returns:
        both files.
    """
    data = Collected(study, places)
    blocks = [_block(data, network, images) for network in study.networks]
    if study.sweep:  # the arms of a sweep's file are what its trials vary
        blocks = [b for b in blocks if any(data.cells[b.network, a].results for a in study.arms)]
    values = {
        "study": study,
        "blocks": blocks,
        "header": header(data),
        "difference_header": DIFFERENCES,
        "names": figures.NAMES,
        "facts": _facts(data),
        "what": [(arm, _what(study, arm)) for arm in study.arms],
        "source": study.file.read_text(encoding="utf-8"),
        "method": _METHOD,
        "ladder": _ladder(data),
        "sweep": _sweep(data),
        "trials": _trials(data),
    }
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(**values)
    html, markdown = places.results / "report.html", places.results / "report.md"
    write_text(html, page)
    write_text(markdown, as_markdown(values))
    return html, markdown


def _what(study: Study, arm: str) -> str:
    return variant_text(study.variants[arm]) if arm in study.variants else WHAT[arm]


# -- one network -----------------------------------------------------------------------------


def _block(data: Collected, network: str, images: bool) -> Block:
    study, block = data.study, Block(network)
    verdict_metric = study.metrics[0]
    found = data.comparisons(network, verdict_metric)
    for arm in dict.fromkeys(a for a, _ in data.pairs):
        controls = [c for a, c in data.pairs if a == arm]
        lines = [_verdict(arm, c, found.get((arm, c)), verdict_metric) for c in controls]
        block.verdicts.append((arm, lines))
    block.arms = [arm_row(data, data.cells[network, arm]) for arm in study.arms]
    for metric in study.metrics:
        rows = data.comparisons(network, metric)
        block.differences[metric] = [
            difference_row(pair, c, metric, metric == verdict_metric) for pair, c in rows.items()
        ]
    block.notes = list(_notes(data, network))
    if any(data.cells[network, arm].results for arm in study.arms):
        block.pictures = list(_pictures(data, network, found, images))
    return block


def _verdict(
    arm: str, control: str, comparison: Comparison | None, metric: str
) -> tuple[str, str, str]:
    beside = f"{_BESIDE[control]} ({control})" if control in _BESIDE else control
    against = f"{arm} against {beside}"
    if comparison is None:
        return against, NONE, "no seed is done in both arms"
    low, high = comparison.reported.low, comparison.reported.high
    n = f"{comparison.over_seeds.n} seed{'s' * (comparison.over_seeds.n != 1)}"
    cases = f"{comparison.over_cases.n} test cases"
    mean = f"{points(comparison.reported.mean, metric)}"
    if not math.isfinite(low):
        return against, comparison.verdict, f"{mean}; {n} × {cases}"
    ends = f"95 % interval {points(low, metric, '')} to {points(high, metric)}"
    return against, comparison.verdict, f"{mean}, {ends}; {n} × {cases}"


def _notes(data: Collected, network: str) -> Iterable[str]:
    for arm in data.study.arms:
        cell = data.cells[network, arm]
        seeds = ", ".join(str(t.seed) for t in cell.same)
        if seeds:
            yield (
                f"{arm}: nothing to differ by from base in seed(s) {seeds} "
                "(no dendrite was accepted, or none grew); base stands for it there."
            )
        for trial, reason in cell.failed.items():
            yield f"{trial.id} failed: {reason}"
        if arm in data.growing and cell.results:
            kept = [int(r["sets"] > 0) for r in cell.results.values()]
            epochs = [e for r in cell.results.values() for e in r["grow_epochs"]]
            yield (
                f"{arm}: {sum(kept)} of {len(kept)} runs kept dendrites; sets were added after "
                f"epochs {', '.join(map(str, sorted(epochs))) or 'none'} of {data.study.epochs}."
            )


def _pictures(
    data: Collected, network: str, found: dict[tuple[str, str], Comparison], images: bool
) -> Iterable[tuple[str, Markup]]:
    metric = data.study.metrics[0]

    def svg(figure: Any) -> Markup:
        return Markup(figures.as_svg(figure))

    if found:
        title = "Differences: every seed, interval over seeds (solid) and over cases (dashed)"
        yield title, svg(figures.seed_spread(data, network, metric))
    title = "Test score against size and cost: every seed (small) and their mean"
    yield title, svg(figures.score_against_cost(data, [network], metric))
    title = (
        "Validation Dice per epoch: mean of the seeds and each seed; dotted where sets were added"
    )
    yield title, svg(figures.score_per_epoch(data, network))
    for arm, control in list(found)[:1]:
        title = f"Every test case: {arm} − {control}"
        yield title, svg(figures.paired_cases(data, network, arm, control, metric))
    for arm in [*data.growing, *(a for a in ("base",) if a in data.study.arms)]:
        figure = figures.worst_cases(data, network, arm, images)
        if figure is not None:
            picture = Markup('<img alt="worst cases" src="{}">').format(figures.as_png(figure))
            yield f"The three worst test cases of {arm}, seed {data.study.seeds[0]}", picture
            break


def _facts(data: Collected) -> list[tuple[str, str]]:
    """What was run, on what, with which versions."""
    found = [r for cell in data.cells.values() for r in cell.results.values()]
    every = trials_of(data.study)
    trials = f"{len(found)} of {len(every)} done"
    if data.study.sweep:
        from .sweep_report import ended, results_of

        trials = ended(data.study, data.places)
        found += results_of(data.places)

    def distinct(key: str) -> str:
        return ", ".join(sorted({str(r[key]) for r in found})) or "–"

    versions = {f"{k} {v}" for r in found for k, v in r["versions"].items()}
    return [
        ("trials", trials),
        ("bundle", data.study.bundle),
        ("folds", _folds(data.study)),
        ("epochs of every arm", str(data.study.epochs)),
        ("device", distinct("device")),
        ("commit", distinct("commit")),
        ("manifest sha256", distinct("manifest_sha256")),
        ("versions", ", ".join(sorted(versions)) or "–"),
        ("protocol", data.study.protocol),
        ("command", f"python -m perforated_monai study run {data.study.name}.yaml"),
    ]


def _folds(study: Study) -> str:
    return "; ".join(
        f"test: validation part of inner fold {k}; growth and checkpoint: of fold {(k + 1) % 5}"
        for k in study.folds
    )


def _ladder(data: Collected) -> Markup:
    """All networks in one figure, where there are several with results."""
    networks = [
        n for n in data.study.networks if any(data.cells[n, a].results for a in data.study.arms)
    ]
    if len(networks) < 2:
        return Markup()
    return Markup(figures.as_svg(figures.score_against_cost(data, networks, data.study.metrics[0])))


def _sweep(data: Collected) -> list[tuple[str, Markup]]:
    if not data.study.sweep:
        return []
    from .sweep_report import pictures

    return pictures(data.study, data.places)


def _trials(data: Collected) -> tuple[list[str], list[list[str]]]:
    if not data.study.sweep:
        return [], []
    from .sweep_report import trials

    return trials(data.study, data.places)


_METHOD = (
    "Every trial is one plain monai.bundle run. Per seed all arms see the same order of cases and "
    "the same augmentation, train the same number of epochs and keep the checkpoint with the best "
    "validation Dice. Differences form a table of seeds × test cases; a 95 % t interval is "
    "computed over the means of the seeds and one over the means of the cases, and the wider one "
    f"is reported. Verdict, first rule that holds: fewer than {FEWEST_SEEDS} seeds: too few runs "
    "to say; both intervals exclude 0 and the larger p is below 0.05 after Holm over all "
    "comparisons of the network: helps or hurts; lower end above −0.5 points: not worse by more "
    "than 0.5 points; else no difference shown. Training minutes are wall clock and "
    "latency is CPU time, on a machine that may have done other work too; on a GPU, peak memory is "
    "torch's and energy that of the whole device."
)
