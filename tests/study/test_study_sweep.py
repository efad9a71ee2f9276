"""Sweeps: what is refused, what is searched, and real searches in SQLite and PostgreSQL."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.harness import BUNDLE, refused
from perforated_monai.commands import study_run as commands
from perforated_monai.study.report import write_report
from perforated_monai.study.study_file import load_study
from perforated_monai.study.sweep_space import as_choice, check_sweep
from perforated_monai.study.sweep_storage import counts, open_sweep
from perforated_monai.study.trial import Places

FILE = BUNDLE / "studies" / "width8_sweep.yaml"
SMALL = yaml.safe_load((BUNDLE / "studies" / "phantom.yaml").read_text()) | {
    "arms": ["dendrites"],
    "seeds": [0],
    "metrics": ["dice"],
    "budget": {"epochs": 4},
}
SPACE: dict[str, Any] = {"dendrites": [0, 1], "learning_rate": {"low": 0.001, "high": 0.01}}


@pytest.fixture
def write(tmp_path: Path):
    """``write(sweep)``: a small study with that sweep, beside a copy of the bundle's configs."""
    root = tmp_path / BUNDLE.name
    shutil.copytree(BUNDLE / "configs", root / "configs")

    def make(sweep: dict[str, Any]) -> Path:
        file = root / "studies" / "small.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(SMALL | {"sweep": sweep}))
        return file

    return make


def wanted(file: Path, folder: Path, **words: Any) -> commands.Wanted:
    """``study run`` of a file with its results in a folder."""
    return commands.Wanted(file=str(file), results=str(folder / "r"), **words)


BAD = {
    "no trials": ({"space": SPACE}, "must have trials"),
    "no space": ({"trials": 3}, "space is None"),
    "key": ({"trials": 3, "space": SPACE, "sampler": "x"}, "'sampler' is none of them"),
    "count": ({"trials": 0, "space": SPACE}, "trials must be a whole number >= 1"),
    "name": ({"trials": 3, "space": {"patients": [1]}}, "'patients' is none of"),
    "value": ({"trials": 3, "space": {"activation": ["gelu"]}}, "must be a list of sigmoid"),
    "type": ({"trials": 3, "space": {"dendrites": [0.5]}}, "dendrites must be a list of int"),
    "range": ({"trials": 3, "space": {"patience": {"low": 5, "high": 2}}}, "low below high"),
    "half": ({"trials": 3, "space": {"patience": {"low": 5}}}, "low below high"),
    "empty": ({"trials": 3, "space": {"patience": []}}, "patience must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sweeps(name: str) -> None:
    sweep, pattern = BAD[name]
    with refused(pattern):
        check_sweep(Path("x.yaml"), sweep)


def test_choices_mean_settings() -> None:
    sweep = load_study(FILE)
    values = {
        "dendrites": 2,
        "learning_rate": 0.01,
        "improvement_threshold": 0.005,
        "layers": "a* b",
    }
    choice = as_choice(values, sweep.growth)
    assert choice.settings == {"learning_rate": 0.01}
    assert choice.growth is not None
    assert choice.growth["max_dendrites"] == 2
    assert choice.growth["improvement_threshold"] == [0.005]
    assert choice.growth["layer_names"] == ["a*", "b"]
    assert as_choice({"dendrites": 0}, sweep.growth).growth is None


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg2://nobody@127.0.0.1:1/none", "nonsense", "sqlite:////no/where/x.db"]
)
def test_a_storage_that_cannot_be_reached(url: str, write, tmp_path: Path) -> None:
    file = write({"trials": 2, "space": SPACE})
    with refused("cannot be reached"):
        commands.run(wanted(file, tmp_path, dataset_dir=str(tmp_path), storage=url))
    assert not (tmp_path / "r").exists()


def test_status_makes_nothing(write, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write({"trials": 2, "space": SPACE})
    before = sorted(file.parent.rglob("*"))
    assert commands.status(str(file)) == 0
    assert capsys.readouterr().out == "0 done, 0 pruned, 0 failed, 0 broken off, of 2\n"
    assert sorted(file.parent.rglob("*")) == before


def test_storage_belongs_to_a_sweep(tmp_path: Path) -> None:
    with refused("has no sweep"):
        file = BUNDLE / "studies" / "phantom.yaml"
        commands.run(wanted(file, tmp_path, dataset_dir=str(tmp_path), storage="sqlite:///x.db"))


def test_a_sweep_of_another_version_is_refused(write, tmp_path: Path) -> None:
    places = Places(tmp_path / "r", tmp_path / "w", tmp_path)
    open_sweep(load_study(write({"trials": 2, "space": SPACE})), places, "")
    open_sweep(load_study(write({"trials": 9, "space": SPACE})), places, "")
    with refused("of another version"):
        open_sweep(load_study(write({"trials": 2, "space": {"dendrites": [1, 2]}})), places, "")


@pytest.mark.slow
def test_crashed_trials_are_marked_and_the_others_go_on(write, phantoms: Path, tmp_path) -> None:
    """Layers that do not exist end a trial's process; the search goes on and is reported."""
    space = SPACE | {"layers": ["*", "nothing*"]}
    file = write({"trials": 6, "space": space, "prune_after_epochs": 0})
    manifest = str(phantoms / "manifest.json")
    code = commands.run(
        wanted(file, tmp_path, dataset_dir=str(phantoms), manifest=manifest, workers=2)
    )
    study = load_study(file)
    places = Places(tmp_path / "r", tmp_path / "r" / "work", phantoms)
    search = open_sweep(study, places, "")
    found = counts(search)
    assert found["done"] + found["failed"] == 6 and found["left"] == 0
    assert code == (0 if found["failed"] == 0 else 3)
    for trial in search.trials:
        grew = trial.params["dendrites"] > 0 and trial.params["layers"] == "nothing*"
        assert ("reason" in trial.user_attrs) == grew
        if grew:
            assert "matches none" in trial.user_attrs["reason"]
    page, _ = write_report(study, places)
    assert "Best validation Dice over trials" in page.read_text()


@pytest.mark.slow
def test_a_hopeless_trial_is_ended_early(write, phantoms: Path, tmp_path: Path) -> None:
    """Five trials that learn, then one that cannot: it ends early, and is no failure."""
    space = {"dendrites": [0, 1], "learning_rate": {"low": 1e-9, "high": 0.01, "log": True}}
    file = write({"trials": 6, "space": space, "prune_after_epochs": 2})
    file.write_text(file.read_text().replace("epochs: 4", "epochs: 12"))
    study, places = load_study(file), Places(tmp_path / "r", tmp_path / "r" / "work", phantoms)
    search = open_sweep(study, places, "")
    for rate in (0.01, 0.009, 0.008, 0.007, 0.006, 1e-9):
        search.enqueue_trial({"dendrites": 0, "learning_rate": rate})
    manifest = str(phantoms / "manifest.json")
    assert commands.run(wanted(file, tmp_path, dataset_dir=str(phantoms), manifest=manifest)) == 0
    search = open_sweep(study, places, "")
    assert counts(search) == {"done": 5, "pruned": 1, "failed": 0, "left": 0}
    (pruned,) = [t for t in search.trials if t.state.name == "PRUNED"]
    assert pruned.params["learning_rate"] == 1e-9
    assert 2 <= max(pruned.intermediate_values) < 12  # epochs
    page, _ = write_report(study, places)
    assert "1 pruned" in page.read_text()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """A PostgreSQL server of its own on the loopback; its URL."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if os.name == "posix" else []
    driver = next((d for d in ("psycopg2", "psycopg") if importlib.util.find_spec(d)), None)
    if not binaries or driver is None:
        pytest.skip("needs Debian's postgresql and psycopg2 (pip install psycopg2-binary)")
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(subprocess.check_output([*user, "mktemp", "-d"], text=True).strip())
    data, port = folder / "data", "54329"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([*user, str(binaries[-1] / "initdb"), "-D", data, "-U", "study"], **quiet)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    control = [*user, str(binaries[-1] / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], **quiet)
    try:
        yield f"postgresql+{driver}://study@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
        subprocess.run([*user, "rm", "-r", str(folder)], **quiet)


@pytest.mark.slow
@pytest.mark.timeout(2400)  # 1 min alone; four workers on a busy machine took over 10
def test_four_workers_share_one_sweep_in_postgresql(
    write, phantoms: Path, postgres: str, tmp_path: Path
) -> None:
    """Four processes, one killed in the middle of a trial: nothing is lost or run twice."""
    file = write({"trials": 8, "space": SPACE, "prune_after_epochs": 0})
    results = tmp_path / "r"
    words = [sys.executable, "-m", "perforated_monai", "study", "run", str(file)]
    words += ["--dataset_dir", str(phantoms), "--manifest", str(phantoms / "manifest.json")]
    words += ["--results", str(results), "--storage", postgres]
    workers = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(4)
    ]
    study = load_study(file)
    places = Places(results, results / "work", phantoms)
    victim, trained = workers[0], places.work
    end = time.monotonic() + 900  # four processes start at once; others may work here too
    while not any(f.stat().st_size for f in trained.glob("*/history.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    said = [w.communicate(timeout=900)[0] for w in workers]
    assert [w.returncode for w in workers[1:]] == [0, 0, 0], said
    search = open_sweep(study, places, postgres)
    assert counts(search) == {"done": 8, "pruned": 0, "failed": 0, "left": 0}
    done = [t.user_attrs["trial"] for t in search.trials if t.state.name == "COMPLETE"]
    assert len(set(done)) == 8
    for name in done:
        log = (places.work / name / "log.txt").read_text()
        assert log.count("done: best Dice") == 1, name
