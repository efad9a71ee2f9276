"""The committed phantom study, run by two runners at once with one trial killed, and its report."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import BUNDLE, refused
from perforated_monai.study import commands
from perforated_monai.study.collect import Collected
from perforated_monai.study.file import Study, load_study
from perforated_monai.study.report import write_report
from perforated_monai.study.results import claim, read
from perforated_monai.study.runner import StudyRunner, trials_of
from perforated_monai.study.trial import Places, Trial

FILE = BUNDLE / "studies" / "phantom.yaml"
KILLED = Trial("width4", "dendrites", 0, 0)


@dataclass
class Done:
    """The study after its first pass (two runners, one child killed) and after its second."""

    study: Study
    places: Places
    first: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    killed_after: int = 0
    stopped: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def done(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Run it once for all tests: every trial is a process of its own."""
    folder = tmp_path_factory.mktemp("study")
    places = Places(
        folder / "results", folder / "work", phantoms.resolve(), phantoms / "manifest.json"
    )
    made = Done(load_study(FILE), places)
    claim(made.study, places.results)
    runners = [StudyRunner(made.study, places, say=made.said.append) for _ in range(2)]
    found: list[dict[Trial, str]] = []
    threads = [threading.Thread(target=lambda r=r: found.append(r.run())) for r in runners]
    for thread in threads:
        thread.start()
    made.killed_after = kill_after_epochs(runners, places, 4)
    for thread in threads:
        thread.join()
    made.first = {t.id: reason for part in found for t, reason in part.items()}
    made.statuses = {t.id: (read(places, t) or {})["status"] for t in trials_of(made.study)}
    StudyRunner(made.study, places, say=made.said.append).run()
    return made


def kill_after_epochs(runners: list[StudyRunner], places: Places, epochs: int) -> int:
    """SIGKILL the process of one trial in its epoch ``epochs`` + 1; the epochs it had done."""
    history = places.run(KILLED) / "history.jsonl"
    end = time.monotonic() + 240
    while time.monotonic() < end:
        children = [c for r in runners for t, c in r._children.copy().items() if t == KILLED]
        lines = history.read_text().count('"event": "epoch"') if history.exists() else 0
        if lines >= epochs and children:
            os.kill(children[0].pid, signal.SIGKILL)
            return lines
        time.sleep(0.02)
    pytest.fail("the trial never reached its epochs")


def test_a_killed_trial_is_marked_and_the_others_go_on(done: Done) -> None:
    assert list(done.first) == [KILLED.id]
    assert done.statuses[KILLED.id] == "failed"
    assert [s for t, s in done.statuses.items() if t != KILLED.id] == ["done"] * 3


def test_the_same_command_continues_it_from_its_run_folder(done: Done) -> None:
    assert (read(done.places, KILLED) or {})["status"] == "done"
    log = (done.places.run(KILLED) / "log.txt").read_text()
    bars = [int(n) for n in re.findall(r"^epoch +(\d+)", log, re.M)]
    epochs = [json.loads(x) for x in history_of(done, KILLED) if '"event": "epoch"' in x]
    assert [e["epoch"] for e in epochs] == list(range(1, 7))
    assert len(bars) <= 6 + 1, "it began anew"


def test_two_runners_never_take_one_trial(done: Done) -> None:
    for trial in trials_of(done.study):
        log = (done.places.run(trial) / "log.txt").read_text()
        assert log.count("done: best Dice") == 1, trial.id
    finished = [line.split(":")[0] for line in done.said if "test Dice" in line]
    assert sorted(finished) == sorted(t.id for t in trials_of(done.study))


def test_a_finished_study_runs_nothing(done: Done) -> None:
    before = {f: f.stat().st_mtime_ns for f in done.places.results.rglob("*.*") if f.is_file()}
    assert StudyRunner(done.study, done.places, say=done.said.append).run() == {}
    assert {f: f.stat().st_mtime_ns for f in before} == before


def test_what_is_kept_says_how_it_was_made(done: Done) -> None:
    for trial in trials_of(done.study):
        folder = done.places.kept(trial)
        result = json.loads((folder / "result.json").read_text())
        made = json.loads((folder / "config.json").read_text())
        assert made["config"]["seed"] == trial.seed == result["seed"]
        assert (made["config"]["fold"], made["config"]["test_fold"]) == (1, 0)
        assert result["manifest_sha256"] and result["commit"] and result["versions"]["torch"]
        assert result["epochs"] == 6
        text = "".join(f.read_text() for f in folder.iterdir() if f.suffix in (".json", ".csv"))
        assert str(done.places.dataset) not in text
        assert str(done.places.results.parent) not in text
        size = sum(f.stat().st_size for f in folder.iterdir())
        assert size < 60_000


def test_arms_share_stream_and_start(done: Done) -> None:
    """Until the first growth a dendritic run is the plain one, bit for bit."""
    for seed in (0, 1):
        first = {}
        for arm in ("base", "dendrites"):
            lines = history_of(done, Trial("width4", arm, 0, seed))
            first[arm] = [json.loads(x) for x in lines if '"event": "epoch"' in x][:2]
        for a, b in zip(first["base"], first["dendrites"], strict=True):
            assert (a["loss"], a["dice"]) == (b["loss"], b["dice"])


def test_test_cases_are_nobody_elses(done: Done) -> None:
    manifest = json.loads((done.places.dataset / "manifest.json").read_text())
    fold = {case: entry["fold"] for case, entry in manifest["cases"].items()}
    data = Collected(done.study, done.places)
    tested = data.table("width4", "base", "dice")
    assert set(tested) == {0, 1}
    assert set(tested[0]) == {case for case, f in fold.items() if f == 0}


def test_the_dendritic_arm_uses_its_whole_budget(done: Done) -> None:
    events = [json.loads(x) for x in history_of(done, Trial("width4", "dendrites", 0, 1))]
    kinds = [e["event"] for e in events if e["event"] != "epoch"]
    assert "grow" in kinds and "settle" in kinds
    result = read(done.places, Trial("width4", "dendrites", 0, 1)) or {}
    plain = read(done.places, Trial("width4", "base", 0, 1)) or {}
    assert result["epochs"] == plain["epochs"] == 6
    assert (result["parameters"] > plain["parameters"]) == (result["sets"] > 0)


def test_a_results_folder_of_another_version_is_refused(done: Done, tmp_path: Path) -> None:
    root = tmp_path / BUNDLE.name
    shutil.copytree(BUNDLE / "configs", root / "configs")
    (root / "studies").mkdir()
    other = root / "studies" / "phantom.yaml"
    other.write_text(FILE.read_text().replace("{epochs: 6}", "{epochs: 7}"))
    for command in (commands.status, commands.report):
        with refused("another version of the study"):
            command(str(other), str(done.places.results))


def test_status(done: Done, capsys: pytest.CaptureFixture) -> None:
    assert commands.status(str(FILE), str(done.places.results)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 done"


def test_report_says_the_verdict_first(done: Done, tmp_path: Path) -> None:
    page, markdown = write_report(done.study, done.places)
    text, copy = page.read_text(), markdown.read_text()
    assert text.index("too few runs to say") < text.index("<table>")
    assert copy.index("too few runs to say") < copy.index("| arm |")
    assert "2 seeds × 2 test cases" in text and "2 seeds × 2 test cases" in copy
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"|"http://[\w./#-]+"', "", text)
    assert not re.search(r"<(script|link)\b", text)
    assert text.count("<svg") >= 4 and text.count("data:image/png") == 1
    assert str(done.places.results.parent) not in text
    numbers = read(done.places, Trial("width4", "base", 0, 0)) or {}
    assert f"{numbers['parameters']:,}" in text
    assert "4 of 4 done" in text and numbers["commit"] in text
    again, _ = write_report(done.study, done.places)
    assert again.read_text() == text


def test_report_in_a_browser(done: Done, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here: the page is not looked at in a browser")
    page, _ = write_report(done.study, done.places, images=True)
    shot = tmp_path / "page.png"
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    words += ["--window-size=1150,5000", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    from PIL import Image

    picture = Image.open(shot).convert("L")
    assert picture.size == (1150, 5000)
    assert len(picture.getcolors(256) or []) > 50, "an empty page"


def history_of(done: Done, trial: Trial) -> list[str]:
    return (done.places.kept(trial) / "history.jsonl").read_text().splitlines()
