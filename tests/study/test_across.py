"""Comparisons across the networks of a study, on results whose numbers are known."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.harness import BUNDLE
from helpers.study_results import keep
from perforated_monai.study.across import MET, MISSED, SHOWN, across
from perforated_monai.study.comparisons import Comparisons
from perforated_monai.study.report import write_report
from perforated_monai.study.results import StudyResults, claim
from perforated_monai.study.runner import trials_of
from perforated_monai.study.study_file import Study, load_study
from perforated_monai.study.trial import Places
from perforated_monai.study.trial_config import overlay


@pytest.fixture
def study() -> Study:
    return load_study(BUNDLE / "studies" / "smaller.yaml")


@pytest.fixture
def places(study: Study, tmp_path: Path) -> Places:
    made = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, made.results)
    for trial in trials_of(study):
        large = trial.network == "full"
        facts = {"parameters": 1000 if large else 400, "latency_ms": 10.0 if large else 6.0}
        keep(made, trial, 0.0 if large else -0.001, **facts)
    return made


def test_a_network_has_its_own_arms_and_settings(study: Study, places: Places) -> None:
    trials = trials_of(study)
    assert {t.arm for t in trials if t.network == "full"} == {"base"}
    assert {t.arm for t in trials if t.network == "small"} == {"base", "base_long", "dendrites"}
    small = next(t for t in trials if t.network == "small" and t.arm == "base")
    content = overlay(study, small, places, None)
    assert content["base_network_def::channels"] == [8, 16, 32]
    full = next(t for t in trials if t.network == "full")
    assert "base_network_def::channels" not in overlay(study, full, places, None)


def test_what_is_allowed_is_met_on_the_mean_or_shown(study: Study, places: Places) -> None:
    data = Comparisons(study, StudyResults(places))
    found = {x.arm: x for x in across(data)}
    near = found["small/dendrites"]
    assert near.comparison is not None
    assert near.comparison.reported.mean == pytest.approx(-0.001, abs=0.0005)
    assert near.costs[0] == pytest.approx(-0.6) and near.costs[3] == pytest.approx(-0.4)
    assert near.costs[5] is None  # no meter
    ends = near.comparison.reported
    assert ends.half > 0
    assert replace(near, within=-ends.low).met == SHOWN
    assert replace(near, within=-ends.mean + ends.half / 2).met == MET
    assert replace(near, within=-ends.mean - ends.half / 2).met == MISSED


def test_the_report_shows_them(study: Study, places: Places) -> None:
    page, markdown = write_report(study, places)
    text = markdown.read_text()
    assert "## Across networks" in text and "small/dendrites − full/base" in text
    assert "-60.0 % | " in text and "-40.0 %" in text and "not measured" in text
    assert "Across networks" in page.read_text()
    full = text.split("## full")[1].split("## compressed")[0]
    assert "| base |" in full and "dendrites" not in full


def test_without_results_nothing_is_claimed(study: Study, tmp_path: Path) -> None:
    made = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, made.results)
    rows = [x.row() for x in across(Comparisons(study, StudyResults(made)))]
    assert len(rows) == 4 and all(row[1] == row[-1] == "not measured" for row in rows)
