"""The report of results whose numbers are known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from helpers.harness import BUNDLE
from perforated_monai.commands import study_run as commands
from perforated_monai.study.arms import ARMS
from perforated_monai.study.collect import Collected
from perforated_monai.study.report import write_report
from perforated_monai.study.results import claim
from perforated_monai.study.runner import trials_of
from perforated_monai.study.study_file import Study, load_study
from perforated_monai.study.trial import Places, Trial

SEEDS = 5
CASES = [f"case_{i:02d}" for i in range(12)]
# What an arm adds to the Dice of base.
GAIN = {"dendrites": 0.02, "dendrites_init": -0.02, "branch": 0.02, "wide": 0.01, "base_long": 0.0}


@pytest.fixture
def study() -> Study:
    return load_study(BUNDLE / "studies" / "width8.yaml")


@pytest.fixture
def places(study: Study, tmp_path: Path) -> Places:
    """Results as a run leaves them, with Dice made by hand."""
    made = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, made.results)
    for trial in trials_of(study):
        if trial.arm == "wide" and trial.seed == 0:
            keep(made, trial, {"status": "same", "same_as": "base"})
        else:
            keep(made, trial, {"status": "done"}, GAIN.get(trial.arm, 0.0))
    return made


def keep(places: Places, trial: Trial, facts: dict, gain: float = 0.0) -> None:
    folder = places.kept(trial)
    folder.mkdir(parents=True)
    order = ARMS.index(trial.arm) if trial.arm in ARMS else 100 + len(trial.arm)
    rng = np.random.default_rng([trial.seed, order])
    seed = np.random.default_rng(trial.seed).normal(0, 0.01)
    rows = [
        [0.8 + 0.005 * i + seed + gain + rng.normal(0, 0.001), 3.0 - i / 10, 0.9]
        for i in range(len(CASES))
    ]
    columns = [f"{p}_{c}" for p in ("dice", "hd95_mm", "nsd") for c in ("anterior", "posterior")]
    with (folder / "cases.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["case", *columns])
        for case, row in zip(CASES, rows, strict=True):
            writer.writerow([case, *(v for v in row for _ in range(2))])
    events = [
        {"event": "epoch", "epoch": e, "dice": 0.5 + e / 100, "lr": [0.001], "seconds": 1.0}
        for e in range(1, 5)
    ]
    if trial.arm.startswith("dendrites"):
        events.append({"event": "grow", "epoch": 2})
    (folder / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    means = np.mean(rows, axis=0)
    result = {
        **{c: float(means[i // 2]) for i, c in enumerate(columns)},
        "parameters": 29231,
        "flops": 61_000_000,
        "file_bytes": 120_000,
        "latency_ms": 2.5,
        "peak_memory_mib": 6.0,
        "cpu_minutes": 2.0,
        "train_minutes": 2.5,
        "energy_joule": None,
        "sets": 1,
        "grow_epochs": [2] if trial.arm.startswith("dendrites") else [],
        "device": "cpu",
        "commit": "0" * 40,
        "manifest_sha256": "1" * 64,
        "versions": {"torch": "2.13.0"},
        **facts,
    }
    (folder / "result.json").write_text(json.dumps(result))


def test_verdicts_are_those_of_the_numbers(study: Study, places: Places) -> None:
    found = Collected(study, places).comparisons("width8", "dice")
    verdicts = {pair: c.verdict for pair, c in found.items()}
    assert verdicts["dendrites", "base"] == verdicts["dendrites", "base_long"] == "helps"
    assert verdicts["dendrites", "branch"] == "not worse by more than 0.5 points"
    assert verdicts["dendrites_init", "base"] == "hurts"
    assert found["dendrites", "base"].reported.mean == pytest.approx(0.02, abs=0.001)
    # Where wide is base (seed 0) its difference is larger: the seeds' interval says so.
    assert found["dendrites", "wide"].over_seeds.half > found["dendrites", "base"].over_seeds.half


def test_the_page_says_them_first_and_as_large_whatever_they_are(
    study: Study, places: Places
) -> None:
    page, markdown = write_report(study, places)
    text = page.read_text()
    for verdict in ("helps", "hurts"):
        assert text.index(f"<strong>{verdict}</strong>") < text.index("<table>")
    assert "+2.0" in text and "5 seeds × 12 test cases" in text
    assert "wide: nothing to differ by from base in seed(s) 0" in text
    assert "energy" in text and "not measured" in text
    assert "**hurts**" in markdown.read_text()


def test_a_ladder_is_drawn_in_one_figure(repo: Path, tmp_path: Path) -> None:
    study = load_study(repo / "bundles/hippocampus_mri_dendritic/studies/ladder.yaml")
    places = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, places.results)
    for trial in trials_of(study):
        if trial.seed == 0:
            keep(places, trial, {"status": "done", "parameters": 7000 * len(trial.network)})
    page, _ = write_report(study, places)
    assert "<h2>All networks</h2>" in page.read_text()
    assert page.read_text().count("too few runs to say") >= 2


def test_what_was_not_run_reads_not_measured(repo: Path, tmp_path: Path) -> None:
    file = repo / "bundles/brain_tumor_mri_dendritic/studies/brain_tumor_task01.yaml"
    study, results = load_study(file), tmp_path / "results"
    for _ in range(2):
        assert commands.report(str(file), str(results)) == 0
    page, markdown = results / "report.html", results / "report.md"
    assert page.read_text().count("<strong>not measured</strong>") == 2
    for arm in study.arms:
        assert f"| {arm} | 0 | not measured |" in markdown.read_text()


def test_a_failed_trial_is_named(study: Study, places: Places) -> None:
    trial = Trial("width8", "base", 0, 3)
    file = places.kept(trial) / "result.json"
    facts = json.loads(file.read_text()) | {"status": "failed", "reason": "The loss is <nan>"}
    file.write_text(json.dumps(facts))
    page, _ = write_report(study, places)
    assert f"{trial.id} failed: The loss is &lt;nan&gt;" in page.read_text()
    assert "4 seeds × 12 test cases" in page.read_text()


def test_the_report_of_one_day_is_that_of_the_next(study: Study, places: Places) -> None:
    one = [f.read_bytes() for f in write_report(study, places)]
    assert one == [f.read_bytes() for f in write_report(study, places)]


def test_committed_results_are_whole(repo: Path) -> None:
    folders = sorted(repo.glob("bundles/*/studies/results/*/study.json"))
    assert folders
    for mark in folders:
        results = mark.parent
        study = load_study(results.parents[1] / f"{results.name}.yaml")
        claim(study, results)
        for file in results.glob("*/result.json"):
            assert json.loads(file.read_text())["protocol"] == study.protocol
        text = "".join(f.read_text() for f in results.rglob("*.json*") if "work" not in f.parts)
        assert "/work/" not in text and "/home/" not in text and "/tmp/" not in text
        assert (results / "report.html").is_file() and (results / "report.md").is_file()


def test_a_study_of_its_own_arms_compares_its_pairs(tmp_path: Path) -> None:
    study = load_study(BUNDLE / "studies" / "kinds.yaml")
    places = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, places.results)
    gains = {"low_rank_auto": 0.02, "low_rank_random": 0.01}
    for trial in trials_of(study):
        keep(places, trial, {"status": "done"}, gains.get(trial.arm, 0.0))
    data = Collected(study, places)
    found = data.comparisons("res4", "dice")
    assert [list(pair) for pair in found] == study.compare
    assert found["low_rank_auto", "low_rank_random"].verdict == "helps"
    html, markdown = write_report(study, places)
    text = markdown.read_text()
    assert "low_rank_auto against low_rank_random" in text
    assert "low_rank_all against the plain network (base)" in text
    assert "dendrites with kind low_rank, rank 2, layers auto, parameter_budget 1947" in text
    assert "<svg" in html.read_text()
