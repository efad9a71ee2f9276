"""The report of results whose numbers are known."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.harness import BUNDLE
from helpers.study_results import keep
from perforated_monai.commands import study_run as commands
from perforated_monai.study.comparisons import Comparisons
from perforated_monai.study.report import write_report
from perforated_monai.study.results import StudyResults, check, claim, claimed
from perforated_monai.study.runner import trials_of
from perforated_monai.study.study_file import Study, load_study
from perforated_monai.study.trial import Places, Trial

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
            keep(made, trial, status="same", same_as="base")
        else:
            keep(made, trial, GAIN.get(trial.arm, 0.0))
    return made


def test_verdicts_are_those_of_the_numbers(study: Study, places: Places) -> None:
    found = Comparisons(study, StudyResults(places)).judged("width8", "dice")
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
            keep(places, trial, parameters=7000 * len(trial.network))
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
    """Tables of its own protocol, no path of a machine, nine files, half a MB on average."""
    folders = sorted(f for f in repo.glob("bundles/*/studies/results/*") if f.is_dir())
    assert len(folders) >= 6
    ignored = ("report.html", ".lock", "sweep.db", "sweep.db-journal")
    files = [f for d in folders for f in d.iterdir() if f.is_file() and f.name not in ignored]
    assert sum(f.stat().st_size for f in files) < 500_000 * len(folders)
    for results in folders:
        assert len([f for f in files if f.parent == results]) <= 9
        assert (results / "report.md") in files
        study = load_study(results.parents[1] / f"{results.name}.yaml")
        if not claimed(results):
            assert "0 of 50 done" in (results / "report.md").read_text()
            continue
        check(study, results)
        rows = StudyResults(Places(results, results / "work", results)).rows()
        assert rows
        text = "".join(f.read_text() for f in files if f.parent == results and f.suffix != ".png")
        assert "/work/" not in text and "/home/" not in text and "/tmp/" not in text


def test_committed_reports_are_those_of_the_tables(repo: Path, tmp_path: Path) -> None:
    """The figures of a report follow from the committed tables alone, to the last digit."""
    for name in ("forms", "width8_sweep"):
        source = BUNDLE / "studies" / "results" / name
        results = tmp_path / name
        results.mkdir()
        for file in source.glob("*"):
            if file.suffix in (".csv", ".json"):
                shutil.copy(file, results)
        study = load_study(BUNDLE / "studies" / f"{name}.yaml")
        _, markdown = write_report(study, Places(results, results / "work", results))
        assert markdown.read_text() == (source / "report.md").read_text()
        assert len(list(results.glob("*.png"))) == len(list(source.glob("*.png")))


def test_a_study_of_its_own_arms_compares_its_pairs(tmp_path: Path) -> None:
    study = load_study(BUNDLE / "studies" / "places.yaml")
    places = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, places.results)
    gains = {"everywhere": 0.02, "finer": 0.01}
    for trial in trials_of(study):
        keep(places, trial, gains.get(trial.arm, 0.0))
    found = Comparisons(study, StudyResults(places)).judged("width8", "dice")
    assert [list(pair) for pair in found] == study.compare
    assert found["everywhere", "finer"].verdict == "helps"
    html, markdown = write_report(study, places)
    text = markdown.read_text()
    assert "everywhere against finer" in text
    assert "dendrites with sets [{'kind': 'distal', 'layers': ['model.0', " in text
    assert "<svg" in html.read_text()
