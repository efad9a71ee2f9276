"""What a report says, as one record: verdicts, tables and figures, before any of it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from . import figures, sweep_report
from .across import across
from .arms import arm_text, variant_text
from .comparisons import Comparisons
from .report_tables import NONE, arm_row, difference_row, header, points
from .results import StudyResults
from .runner import trials_of
from .statistics import FEWEST_SEEDS, Comparison
from .study_file import Study
from .trial import Places

_BESIDE = {
    "wide": "an equally large plain network",
    "wide_flops": "a plain network of equal FLOPs",
    "wide_long": "an equally large plain network with the same restarts",
    "wide_time": "a plain network of equal CPU time",
    "deeper": "a deeper plain network of equal size",
    "from_start": "the same dendrites from the first epoch on",
    "branch": "ordinary parallel convolutions",
    "base_long": "the plain network with the same restarts",
    "base": "the plain network",
}
METHOD = (
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
DIFFERENCES, COST, EPOCHS, CASES, WORST = "differences", "cost", "epochs", "cases", "worst"
_TITLES = {
    DIFFERENCES: "Differences: every seed, interval over seeds (solid) and over cases (dashed)",
    COST: "Test score against size and cost: every seed (small) and their mean",
    EPOCHS: (
        "Validation Dice per epoch: mean of the seeds and each seed; dotted where sets were added"
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What a comparison says, in words."""

    against: str
    verdict: str
    facts: str


@dataclass(frozen=True)
class Picture:
    """A figure of the report; ``name`` says which."""

    name: str
    title: str
    figure: Figure


@dataclass
class Block:
    """One network of the report.

    Attributes:
        verdicts: a list an arm.
        arms: rows of the table of arms.
        differences: metric -> rows of its table of comparisons.
        notes: what happened in the runs.
    """

    network: str
    verdicts: list[list[Verdict]] = field(default_factory=list)
    arms: list[list[str]] = field(default_factory=list)
    differences: dict[str, list[list[str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        blocks: one a network.
        header: of the tables of arms.
        across: rows of the comparisons across networks, under ``across.HEADER``.
        ladder: all networks in one figure, where several have results.
        sweep: header and rows of the trials of a sweep.
        sweep_pictures: of the search.
        arms: what each arm is.
        facts: what was run, on what, with which versions.
        source: the study file.
    """

    title: str
    note: str
    blocks: list[Block]
    header: list[str]
    across: list[list[str]]
    ladder: Picture | None
    sweep: tuple[list[str], list[list[str]]]
    sweep_pictures: list[Picture]
    arms: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    source: str

    @property
    def pictures(self) -> list[Picture]:
        """The three at most that stand beside the text: differences, cost and epochs."""
        every = [
            *([self.ladder] if self.ladder else []),
            *(p for b in self.blocks for p in b.pictures),
        ]
        first = (next((p for p in every if p.name == name), None) for name in _TITLES)
        return [picture for picture in first if picture is not None]


def make_report(study: Study, places: Places, images: bool = False) -> Report:
    """Read the results of a study and say what they mean.

    Args:
        study: the study.
        places: where its results lie.
        images: show the worst cases on slices of the images; without, outlines alone.
    """
    results = StudyResults(places)
    data = Comparisons(study, results)
    blocks = [_block(data, network, images) for network in study.networks]
    if study.sweep:  # the arms of a sweep's file are what its trials vary
        blocks = [b for b in blocks if _has_results(data, b.network)]
    return Report(
        title=study.title or study.name,
        note=study.note,
        blocks=blocks,
        header=header(data),
        across=[found.row() for found in across(data)],
        ladder=_ladder(data),
        sweep=sweep_report.trials(study, results) if study.sweep else ([], []),
        sweep_pictures=[
            Picture("sweep", title, figure)
            for title, figure in (sweep_report.pictures(study, places) if study.sweep else [])
        ],
        arms=[(arm, _what(study, arm)) for arm in study.arms],
        facts=_facts(data),
        source=study.file.read_text(encoding="utf-8"),
    )


def _what(study: Study, arm: str) -> str:
    return (
        variant_text(study.variants[arm]) if arm in study.variants else arm_text(arm, study.growth)
    )


def _has_results(data: Comparisons, network: str) -> bool:
    return any(data.cells[network, arm].measured for arm in data.study.arms_of(network))


# -- one network -----------------------------------------------------------------------------


def _block(data: Comparisons, network: str, images: bool) -> Block:
    study, block = data.study, Block(network)
    verdict_metric = study.metrics[0]
    judged = data.judged(network, verdict_metric)
    pairs = data.pairs_of(network)
    for arm in dict.fromkeys(a for a, _ in pairs):
        controls = [c for a, c in pairs if a == arm]
        block.verdicts.append(
            [_verdict(arm, c, judged.get((arm, c)), verdict_metric) for c in controls]
        )
    block.arms = [arm_row(data, data.cells[network, arm]) for arm in study.arms_of(network)]
    for metric in study.metrics:
        rows = data.judged(network, metric)
        block.differences[metric] = [
            difference_row(pair, c, metric, metric == verdict_metric) for pair, c in rows.items()
        ]
    block.notes = list(_notes(data, network))
    if _has_results(data, network):
        block.pictures = list(_pictures(data, network, judged, images))
    return block


def _verdict(arm: str, control: str, comparison: Comparison | None, metric: str) -> Verdict:
    beside = f"{_BESIDE[control]} ({control})" if control in _BESIDE else control
    against = f"{arm} against {beside}"
    if comparison is None:
        return Verdict(against, NONE, "no seed is done in both arms")
    low, high = comparison.reported.low, comparison.reported.high
    n = f"{comparison.over_seeds.n} seed{'s' * (comparison.over_seeds.n != 1)}"
    cases = f"{comparison.over_cases.n} test cases"
    mean = f"{points(comparison.reported.mean, metric)}"
    if not math.isfinite(low):
        return Verdict(against, comparison.verdict, f"{mean}; {n} × {cases}")
    ends = f"95 % interval {points(low, metric, '')} to {points(high, metric)}"
    return Verdict(against, comparison.verdict, f"{mean}, {ends}; {n} × {cases}")


def _notes(data: Comparisons, network: str) -> Iterable[str]:
    for arm in data.study.arms_of(network):
        cell = data.cells[network, arm]
        seeds = ", ".join(str(t.seed) for t in cell.same)
        if seeds:
            yield (
                f"{arm}: nothing to differ by from base in seed(s) {seeds} "
                "(no dendrite was accepted, or none grew); base stands for it there."
            )
        for trial, reason in cell.failed.items():
            yield f"{trial.id} failed: {reason}"
        if arm in data.growing and cell.measured:
            kept = [int(m.sets > 0) for m in cell.measured.values()]
            epochs = [e for m in cell.measured.values() for e in m.grow_epochs]
            yield (
                f"{arm}: {sum(kept)} of {len(kept)} runs kept dendrites; sets were added after "
                f"epochs {', '.join(map(str, sorted(epochs))) or 'none'} of {data.study.epochs}."
            )


def _pictures(
    data: Comparisons, network: str, judged: dict[tuple[str, str], Comparison], images: bool
) -> Iterable[Picture]:
    metric = data.study.metrics[0]
    if judged:
        figure = figures.seed_spread(data, network, metric)
        yield Picture(DIFFERENCES, _TITLES[DIFFERENCES], figure)
    yield Picture(COST, _TITLES[COST], figures.score_against_cost(data, [network], metric))
    yield Picture(EPOCHS, _TITLES[EPOCHS], figures.score_per_epoch(data, network))
    for arm, control in list(judged)[:1]:
        figure = figures.paired_cases(data, network, arm, control, metric)
        yield Picture(CASES, f"Every test case: {arm} − {control}", figure)
    arms = data.study.arms_of(network)
    for arm in (a for a in [*data.growing, "base"] if a in arms):
        worst = figures.worst_cases(data, network, arm, images)
        if worst is not None:
            title = f"The three worst test cases of {arm}, seed {data.study.seeds[0]}"
            yield Picture(WORST, title, worst)
            break


def _ladder(data: Comparisons) -> Picture | None:
    networks = [n for n in data.study.networks if _has_results(data, n)]
    if len(networks) < 2:
        return None
    figure = figures.score_against_cost(data, networks, data.study.metrics[0])
    return Picture(COST, _TITLES[COST], figure)


# -- what was run ----------------------------------------------------------------------------


def _facts(data: Comparisons) -> list[tuple[str, str]]:
    study = data.study
    measured = [m for cell in data.cells.values() for m in cell.measured.values()]
    trials = f"{len(measured)} of {len(trials_of(study))} done"
    if study.sweep:
        rows = sweep_report.rows_of(data.results)
        trials = sweep_report.ended(study, rows)
        measured += [row.measured for row in rows if row.measured is not None]
    made_in = [m.environment for m in measured]

    def distinct(name: str) -> str:
        return ", ".join(sorted({str(getattr(e, name)) for e in made_in})) or "–"

    versions = {f"{k} {v}" for e in made_in for k, v in e.versions.items()}
    return [
        ("trials", trials),
        ("bundle", study.bundle),
        ("folds", _folds(study)),
        ("epochs of every arm", str(study.epochs)),
        ("device", distinct("device")),
        ("commit", distinct("commit")),
        ("manifest sha256", distinct("manifest_sha256")),
        ("versions", ", ".join(sorted(versions)) or "–"),
        ("protocol", study.protocol),
        ("command", f"python -m perforated_monai study run {study.name}.yaml"),
    ]


def _folds(study: Study) -> str:
    return "; ".join(
        f"test: validation part of inner fold {k}; growth and checkpoint: of fold {(k + 1) % 5}"
        for k in study.folds
    )
