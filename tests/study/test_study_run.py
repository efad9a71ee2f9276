"""A finished study: what is kept, what is compared, what is shown."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.harness import BUNDLE, refused
from helpers.study_runs import FILE, Done, history_of, measured
from perforated_monai.commands import study_run as commands
from perforated_monai.study.comparisons import Comparisons
from perforated_monai.study.report import write_report
from perforated_monai.study.results import StudyResults
from perforated_monai.study.runner import StudyRunner, trials_of
from perforated_monai.study.trial import Trial


def test_a_finished_study_runs_nothing(phantom_study: Done) -> None:
    before = {
        f: f.stat().st_mtime_ns for f in phantom_study.places.results.rglob("*.*") if f.is_file()
    }
    assert (
        StudyRunner(phantom_study.study, phantom_study.places, say=phantom_study.said.append).run()
        == {}
    )
    assert {f: f.stat().st_mtime_ns for f in before} == before


def test_what_is_kept_says_how_it_was_made(phantom_study: Done) -> None:
    for trial in trials_of(phantom_study.study):
        folder = phantom_study.places.kept(trial)
        result = json.loads((folder / "result.json").read_text())
        made = json.loads((folder / "config.json").read_text())
        assert made["config"]["seed"] == trial.seed == result["seed"]
        assert (made["config"]["fold"], made["config"]["test_fold"]) == (1, 0)
        assert result["manifest_sha256"] and result["commit"] and result["versions"]["torch"]
        assert result["epochs"] == 6
        text = "".join(
            f.read_text() for f in folder.iterdir() if f.suffix in (".json", ".csv", ".jsonl")
        )
        assert str(phantom_study.places.dataset) not in text
        assert str(phantom_study.places.results.parent) not in text
        size = sum(f.stat().st_size for f in folder.iterdir())
        assert size < 60_000


def test_arms_share_stream_and_start(phantom_study: Done) -> None:
    """Until the first growth a dendritic run is the plain one, bit for bit."""
    for seed in (0, 1):
        first = {}
        for arm in ("base", "dendrites"):
            lines = history_of(phantom_study, Trial("width4", arm, 0, seed))
            first[arm] = [json.loads(x) for x in lines if '"event": "epoch"' in x][:2]
        for a, b in zip(first["base"], first["dendrites"], strict=True):
            assert (a["loss"], a["dice"]) == (b["loss"], b["dice"])


def test_test_cases_are_nobody_elses(phantom_study: Done) -> None:
    manifest = json.loads((phantom_study.places.dataset / "manifest.json").read_text())
    fold = {case: entry["fold"] for case, entry in manifest["cases"].items()}
    data = Comparisons(phantom_study.study, StudyResults(phantom_study.places))
    tested = data.table("width4", "base", "dice")
    assert set(tested) == {0, 1}
    assert set(tested[0]) == {case for case, f in fold.items() if f == 0}


def test_the_dendritic_arm_uses_its_whole_budget(phantom_study: Done) -> None:
    events = [json.loads(x) for x in history_of(phantom_study, Trial("width4", "dendrites", 0, 1))]
    kinds = [e["event"] for e in events if e["event"] != "epoch"]
    assert "grow" in kinds and "settle" in kinds
    grown = measured(phantom_study, Trial("width4", "dendrites", 0, 1))
    plain = measured(phantom_study, Trial("width4", "base", 0, 1))
    assert grown.epochs == plain.epochs == 6
    assert (grown.parameters > plain.parameters) == (grown.sets > 0)


def test_a_results_folder_of_another_version_is_refused(
    phantom_study: Done, tmp_path: Path
) -> None:
    root = tmp_path / BUNDLE.name
    shutil.copytree(BUNDLE / "configs", root / "configs")
    (root / "studies").mkdir()
    other = root / "studies" / "phantom.yaml"
    other.write_text(FILE.read_text().replace("{epochs: 6}", "{epochs: 7}"))
    for command in (commands.status, commands.report):
        with refused("another version of the study"):
            command(str(other), str(phantom_study.places.results))


def test_status(phantom_study: Done, capsys: pytest.CaptureFixture) -> None:
    assert commands.status(str(FILE), str(phantom_study.places.results)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 done"


def test_report_says_the_verdict_first(phantom_study: Done, tmp_path: Path) -> None:
    page, markdown = write_report(phantom_study.study, phantom_study.places)
    text, copy = page.read_text(), markdown.read_text()
    assert text.index("too few runs to say") < text.index("<table>")
    assert copy.index("too few runs to say") < copy.index("| arm |")
    assert "2 seeds × 2 test cases" in text and "2 seeds × 2 test cases" in copy
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"|"http://[\w./#-]+"', "", text)
    assert not re.search(r"<(script|link)\b", text)
    assert text.count("<svg") >= 4 and text.count("data:image/png") == 1
    assert str(phantom_study.places.results.parent) not in text
    numbers = measured(phantom_study, Trial("width4", "base", 0, 0))
    assert f"{numbers.parameters:,}" in text
    assert "4 of 4 done" in text and numbers.environment.commit in text
    again, _ = write_report(phantom_study.study, phantom_study.places)
    assert again.read_text() == text


def test_report_in_a_browser(phantom_study: Done, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here: the page is not looked at in a browser")
    page, _ = write_report(phantom_study.study, phantom_study.places, images=True)
    shot = tmp_path / "page.png"
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    words += ["--window-size=1150,5000", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    from PIL import Image

    picture = Image.open(shot).convert("L")
    assert picture.size == (1150, 5000)
    assert len(picture.getcolors(256) or []) > 50, "an empty page"


@pytest.mark.slow
def test_a_budget_of_minutes_ends_cleanly_and_goes_on(phantoms: Path, tmp_path: Path) -> None:
    file = BUNDLE / "studies" / "phantom.yaml"
    wanted = commands.Wanted(
        file=str(file),
        dataset_dir=str(phantoms),
        results=str(tmp_path / "r"),
        manifest=str(phantoms / "manifest.json"),
    )
    code = commands.run(dataclasses.replace(wanted, budget_minutes=0.2))
    assert code in (1, 3)
    # What is left of the machine is the results folder: work lies in it.
    (tmp_path / "r").rename(tmp_path / "moved")
    moved = dataclasses.replace(wanted, results=str(tmp_path / "moved"))
    assert commands.run(moved) == 0
    results = sorted((tmp_path / "moved").glob("*/result.json"))
    assert [json.loads(f.read_text())["epochs"] for f in results] == [6] * 4
