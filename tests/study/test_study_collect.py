"""Results as tables: nothing is lost, and a study goes on from them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.harness import BUNDLE, refused
from helpers.study_results import keep
from perforated_monai.commands import study_run as commands
from perforated_monai.commands.main import main
from perforated_monai.study.collect import collect
from perforated_monai.study.report import write_report
from perforated_monai.study.results import StudyResults, claim
from perforated_monai.study.runner import StudyRunner, trials_of
from perforated_monai.study.study_file import Study, load_study
from perforated_monai.study.sweep_storage import counts, open_sweep
from perforated_monai.study.trial import Places, Trial
from perforated_monai.training.provenance import Provenance, refuse_other_config

FILE = BUNDLE / "studies" / "phantom.yaml"
FAILED = Trial("width4", "base", 0, 1)


@pytest.fixture
def study() -> Study:
    return load_study(FILE)


@pytest.fixture
def places(study: Study, tmp_path: Path) -> Places:
    """Raw folders of four trials, one of which failed."""
    made = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, made.results)
    for trial in trials_of(study):
        if trial == FAILED:
            keep(made, trial, status="failed", reason="The loss is <nan>, at once")
        else:
            keep(made, trial, gain=0.01 * (trial.arm == "dendrites"))
    return made


def remove_raw(places: Places) -> None:
    for folder in places.results.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)


def test_the_report_of_the_tables_is_that_of_the_raw_folders(study: Study, places: Places) -> None:
    before = [file.read_text() for file in write_report(study, places)]
    collect(study, places)
    remove_raw(places)
    assert [file.read_text() for file in write_report(study, places)] == before
    names = {"study.json", "trials.csv", "cases.csv", "epochs.csv", "report.md", ".gitignore"}
    pictures = {"differences.png", "cost.png", "epochs.png"}
    assert {f.name for f in places.results.iterdir()} == names | pictures | {"report.html"}
    assert "report.html" in (places.results / ".gitignore").read_text()


def test_numbers_come_back_to_the_last_bit(study: Study, places: Places) -> None:
    trial = Trial("width4", "dendrites", 0, 0)
    file = places.kept(trial) / "history.jsonl"
    events = [
        {"event": "epoch", "epoch": 1, "loss": 0.1 + 0.2, "dice": None, "dice_per_class": [1 / 3]},
        {"event": "choose", "epoch": 1, "layers": ["a, b", 'c"d'], "of": 3},
        {"event": "grow", "epoch": 1, "sets": 1, "dice_before": 2 / 3, "lr": [], "parameters": 7},
    ]
    file.write_text("".join(json.dumps(e) + "\n" for e in events))
    table = (places.kept(trial) / "cases.csv").read_text().splitlines()
    table[1] = f"case_00,{0.1 + 0.2},,inf,1,0.9,1e-17"
    (places.kept(trial) / "cases.csv").write_text("\n".join(table) + "\n")
    written = collect(study, places)
    files = {f: f.read_bytes() for f in places.results.glob("*.*") if f.is_file()}
    remove_raw(places)
    known = StudyResults(places)
    assert known.history(trial) == events
    case = known.cases(trial)[0]
    assert list(case.values.values())[::2] == [0.1 + 0.2, math.inf, 0.9]
    assert math.isnan(case.values["dice_posterior"]) and case.values["nsd_posterior"] == 1e-17
    assert known.tables.rows == written.rows and known.tables.configs == written.configs
    collect(study, places)
    assert files == {f: f.read_bytes() for f in files}, "collecting again changes nothing"


def test_tables_and_new_raw_folders_are_merged(study: Study, places: Places) -> None:
    collect(study, places)
    remove_raw(places)
    keep(places, FAILED)  # tried again, and done
    other = Trial("width4", "base", 0, 0)
    keep(places, other, status="failed", reason="a later try")
    rows = collect(study, places).rows
    assert list(rows) == trials_of(study)
    assert {row.status for row in rows.values()} == {"done"}
    remove_raw(places)
    again = StudyResults(places)
    assert again.config(FAILED) == {"seed": 1, "learning_rate": 0.003, "channels": [8, 16]}
    about = json.loads((places.results / "study.json").read_text())
    assert about["config"] == {"learning_rate": 0.003, "channels": [8, 16]}


def test_a_finished_trial_in_the_tables_is_not_run_again(
    study: Study, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(study, places)
    remove_raw(places)
    tried: list[Trial] = []

    def fail(self: StudyRunner, trial: Trial, content: dict[str, Any]) -> tuple[int, str]:
        tried.append(trial)
        return 1, "stopped here"

    monkeypatch.setattr(StudyRunner, "_process", fail)
    assert list(StudyRunner(study, places, say=lambda _: None).run()) == [FAILED]
    assert tried == [FAILED]


def test_an_arm_follows_a_leader_that_only_the_tables_hold(tmp_path: Path) -> None:
    study = load_study(BUNDLE / "studies" / "width8.yaml")
    places = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    claim(study, places.results)
    leader = Trial("width8", "dendrites", 0, 0)
    keep(places, leader, sets=0, parameters=58525)
    collect(study, places)
    remove_raw(places)
    wide = Trial("width8", "wide", 0, 0)
    assert StudyRunner(study, places, say=lambda _: None).run([wide]) == {}
    row = StudyResults(places).row(wide)
    assert row is not None and (row.status, row.same_as) == ("same", "base")


def test_a_sweep_goes_on_from_the_tables_without_its_database(tmp_path: Path) -> None:
    study = load_study(BUNDLE / "studies" / "width8_sweep.yaml")
    committed = BUNDLE / "studies" / "results" / "width8_sweep"
    places = Places(tmp_path / "results", tmp_path / "work", tmp_path)
    places.results.mkdir()
    for name in ("study.json", "trials.csv", "cases.csv", "epochs.csv"):
        shutil.copy(committed / name, places.results)
    search = open_sweep(study, places, "")
    assert counts(search) == {"done": 7, "pruned": 3, "failed": 0, "left": 0}
    assert search.best_trial.number == 7
    assert search.best_params["layers"] == "model.0*" and search.best_params["patience"] == 3
    assert search.ask().number == 10
    assert len(open_sweep(study, places, "").get_trials()) == 11


@pytest.mark.parametrize("name", ["trials.csv", "cases.csv", "epochs.csv"])
def test_a_changed_or_missing_table_is_refused(name: str, study: Study, places: Places) -> None:
    collect(study, places)
    file = places.results / name
    text = file.read_text()
    file.write_text(text.replace("dendrites", "base", 1))
    with refused(f"{name} must be as study collect wrote it"):
        commands.status(str(FILE), str(places.results))
    file.unlink()
    with refused("must hold study.json with the tables"):
        commands.report(str(FILE), str(places.results))


def test_the_command(study: Study, places: Places, tmp_path: Path, capsys) -> None:
    words = ["study", "collect", str(FILE), "--results"]
    assert main([*words, str(places.results)]) == 0
    assert "4 trials (3 done, 1 failed)" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "nothing")]) == 1
    assert "Run the study first" in capsys.readouterr().err


def test_a_trial_begun_with_the_former_names_of_handlers_is_refused_by_name(tmp_path: Path) -> None:
    """Its ``config.json`` names the handler where it lay before the rooms."""

    def config(place: str) -> dict[str, Any]:
        handler = {"_target_": f"perforated_monai.study.{place}.GrowAndSettle"}
        return {"seed": 0, "train": {"handlers": [handler]}}

    file = tmp_path / "config.json"
    Provenance(config("settle"), {}, None).write(file)
    refuse_other_config(file, config("settle"))
    with refused("study.settle.GrowAndSettle' then, .*study.handlers.settle.GrowAndSettle' now"):
        refuse_other_config(file, config("handlers.settle"))
