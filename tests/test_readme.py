"""The handbook: commands, files, keys and links exist, and trainings run as printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from helpers.harness import SMALL
from helpers.pages import (
    BUNDLE_PAGES,
    HANDBOOK,
    JOINING,
    OTHERS,
    OURS,
    PACKAGE,
    PAGES,
    README,
    REPOSITORY,
    RUN,
    RUNS,
    TRAININGS,
    anchors,
    blocks,
    commands,
    config_files,
    is_ours,
    links,
    table,
)
from helpers.zoo import PHANTOM_KIND
from perforated_monai.bundle.overrides import check_overrides
from perforated_monai.commands.main import COMMANDS
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import write_manifest

# Its dendrites need three voxels an axis where the network is coarsest.
CROPS = {"glioma_t1c_mri_dendritic": [48, 48, 16]}
SCRIPTS = REPOSITORY / "scripts" / "README.md"
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda p: p.relative_to(REPOSITORY).as_posix()
)


def override_of(words: list[str]) -> list[str]:
    """What makes a printed command small: data, epochs and crops."""
    config = words[words.index("--config_file") + 1]
    crop = next((size for name, size in CROPS.items() if name in config), SMALL["roi_size"])
    small = ["--epochs", "1", "--val_interval", "1", "--roi_size", str(crop)]
    if "inference" in config:
        return []
    return ["--val_roi_size", "@roi_size", *small[4:]] if "evaluate" in config else small


def test_there_are_commands() -> None:
    assert all(page.is_file() for page in HANDBOOK)
    assert len(RUNS) >= 16
    assert len(OURS) >= 20


@pytest.mark.parametrize("words", RUNS, ids=lambda w: w[-1])
def test_bundle_commands_name_files_and_keys_that_exist(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    check_overrides(words[words.index("run") + 1 :])
    for file in config_files(words):
        assert (REPOSITORY / file).is_file(), file
    monkeypatch.undo()


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_our_commands_exist(words: list[str]) -> None:
    assert words[3] in COMMANDS
    done = subprocess.run(
        [sys.executable, "-m", "perforated_monai", words[3], "--help"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    shown = done.stdout + done.stderr
    for flag in (w for w in words[4:] if w.startswith("--")):
        assert flag[2:].replace("-", "_") in shown.replace("-", "_"), flag


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_other_commands_are_those_of_the_project(words: list[str]) -> None:
    """make, pip, pytest and the benchmarks; a command of another kind needs a check of its own."""
    program = " ".join(words)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (REPOSITORY / "Makefile").read_text()
        for word in words[2:]:
            name, value = word.split("=")
            assert f"\n{name} ?=" in (REPOSITORY / "Makefile").read_text()
            assert name != "TESTS" or (REPOSITORY / value).exists()
    elif words[0] == "pip":
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        extras = set(re.findall(r"\w+", "".join(re.findall(r"\[(.*?)\]", program))))
        assert extras <= set(project["optional-dependencies"])
        assert words[1:4] == ["install", "-c", "constraints.txt"]
    elif words[0] == "perforated-monai":
        assert words[1] in COMMANDS and len(words) == 2
    elif program.startswith(("python tests/benchmarks/", "python -m pytest ")):
        (file,) = [w for w in words if w.startswith("tests/")]
        assert (REPOSITORY / file).is_file()
        for flag in (w for w in words[1:] if w.startswith("--")):
            assert f'"{flag}"' in (REPOSITORY / file).read_text(), flag
    else:
        assert program == "python -m venv .venv && . .venv/bin/activate"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(REPOSITORY), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150
    assert 0 < len(table(README, "Results")) <= 8


def test_the_experiments_are_told_as_their_studies_tell_them() -> None:
    """Every difference of a row stands in the report that the row links to."""
    told = 0
    for experiment, _, measured, _ in table(README, "Results"):
        files = re.findall(r"\]\((\S+/report\.md)\)", measured)
        said = re.findall(r"[+−]\d+\.\d+", measured)
        assert bool(files) == bool(said), experiment
        text = " ".join((REPOSITORY / file).read_text() for file in files)
        assert [d for d in said if d.replace("−", "-") not in text] == [], experiment
        told += len(said)
    assert told >= 10


CONTROLS = {
    "wide": ("helps", r"(\S+) points of Dice above a plain network with as many parameters"),
    "wide_flops": ("helps", r"(\S+) above one of equal operations"),
    "deeper": ("helps", r"(\S+) above a deeper one"),
    "wide_time": (
        "not worse by more than 0.5 points",
        r"times the parameters, is (\S+) points better",
    ),
}


@pytest.mark.parametrize("arm", CONTROLS)
def test_the_readme_says_first_what_dendrites_give(arm: str) -> None:
    """Its figures are those of the report; a study with another verdict changes the sentence."""
    first = " ".join(README.read_text().partition("```")[0].split())
    verdict, sentence = CONTROLS[arm]
    report = REPOSITORY / "bundles/hippocampus_mri_dendritic/studies/results/dendrites_that_pay"
    line = re.search(
        rf"- \*\*{verdict}\*\*: dendrites against .* \({arm}\)\. "
        r"[+-](\S+) points, 95 % interval (.+?) points; 5 seeds",
        (report / "report.md").read_text(),
    )
    assert re.search(sentence, first)[1] == line[1]
    if arm == "wide":
        assert f"(95 % interval {line[2]})" in first


def test_the_tree_has_the_rooms() -> None:
    tree = SCRIPTS.read_text().split("```")[1]
    rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert set(re.findall(r"^│ ?\d?\s+(\w+)/  ", tree, re.M)) == rooms
    assert len(rooms) == 10
    for room, inner in re.findall(r"^│ ?\d?\s+(\w+)/  .*?((?:\w+/(?:, )?)*)$", tree, re.M):
        assert all((PACKAGE / room / name).is_dir() for name in re.findall(r"\w+(?=/)", inner))
    for file in re.findall(r"(\w+\.py)", tree):
        assert (PACKAGE / file).is_file()


def test_to_change_x_open_a_file_that_exists() -> None:
    rows = table(SCRIPTS, "To change X open Y")
    assert len(rows) >= 15
    for _, cell in rows:
        paths = re.findall(r"`([^`]+)`", cell)
        assert paths
        for path in paths:
            base = REPOSITORY if path.startswith(("bundles", "data_manifests")) else PACKAGE
            assert list(base.glob(path)), path


@pytest.mark.parametrize("page", [*HANDBOOK, JOINING], ids=lambda p: p.parent.name)
def test_paths_in_the_text_exist(page: Path) -> None:
    """`data/splits.py` is a file of the package or of the repository; patterns match something."""
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir()}
    tops = "|".join({*rooms, "bundles", "scripts", "tests", "data_manifests"})
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for path in re.findall(rf"`((?:{tops})/[\w./*-]*)`", text):
        assert list(PACKAGE.glob(path)) or list(REPOSITORY.glob(path)), path


def test_the_benchmarks_are_all_named() -> None:
    page = (REPOSITORY / "tests" / "README.md").read_text()
    programs = {p.name for p in (REPOSITORY / "tests" / "benchmarks").glob("*.py")}
    assert programs and set(re.findall(r"`(\w+\.py)`(?=.*\|)", page)) >= programs


@pytest.mark.slow
@pytest.mark.parametrize("words", TRAININGS, ids=lambda w: w[-1])
def test_training_commands_run_as_printed(words: list[str], phantoms: Path, tmp_path: Path) -> None:
    """As printed, but for the data and the folder; one epoch, small crops."""
    words = [sys.executable, *words[1:]]
    words[words.index("--dataset_dir") + 1] = str(phantoms)
    words[words.index("--output_dir") + 1] = str(tmp_path / "out")
    if "--manifest" in words:
        words[words.index("--manifest") + 1] = str(phantoms / "manifest.json")
    else:
        words += ["--manifest", str(phantoms / "manifest.json")]
    words += ["--epochs", "1", "--roi_size", str(SMALL["roi_size"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "done: best Dice" in done.stderr


def run_in_order(printed: list[list[str]], folder: Path, data: str) -> None:
    """Commands as printed in a folder, on phantoms; one epoch, small crops."""
    for words in printed:
        program = [sys.executable, *words[1:]]
        if words[0] == "torchrun":
            program = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            program += ["--backend", "gloo"]
        if RUN[1] in words:
            program += override_of(words)
            if "inference" not in str(words) and "--manifest" not in words:
                program += ["--manifest", f"{data}/manifest.json"]
        elif "segment" in words and "--allow-phantom-weights" not in words:
            program += ["--allow-phantom-weights"]  # a training on phantoms marks its weights
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(program, cwd=folder, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-2000:]}"
    assert not (folder / "configs").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", BUNDLE_PAGES, ids=lambda page: page.parts[-3])
def test_every_command_of_a_bundles_page_runs_in_order(
    page: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a folder with a copy of the bundle; phantoms for the data, one epoch, small crops."""
    bundle, folder = page.parents[1], tmp_path_factory.mktemp("page")
    shutil.copytree(bundle, folder / "bundles" / bundle.name)
    data = make_phantoms(folder / "data", cases=10, kind=PHANTOM_KIND[bundle.name])
    write_manifest(data, data / "manifest.json", "phantom")
    printed = commands(page, DATA="data")
    assert len(printed) >= 5
    run_in_order(printed, folder, "data")


@pytest.mark.slow
def test_the_first_block_trains_exports_and_segments(tmp_path: Path) -> None:
    """The README's block, in a folder with the bundle and phantoms under the name of Task04."""
    (block,) = [b for b in blocks(README) if b[0][-1].startswith("runs/") and is_ours(b[1])]
    assert [words[3] for words in block] == ["run", "export", "segment"]
    bundle = Path("bundles/hippocampus_mri_dendritic")
    shutil.copytree(REPOSITORY / bundle, tmp_path / bundle)
    data = make_phantoms(tmp_path / "Task04_Hippocampus", cases=10)
    write_manifest(data, data / "manifest.json", "phantom")
    run_in_order(block, tmp_path, "Task04_Hippocampus")
    assert len(list((tmp_path / "masks").glob("*_seg.nii.gz"))) == 10
    assert len(list((tmp_path / "masks").glob("*_preview.png"))) == 10


def test_six_trainings_are_printed() -> None:
    """Full and compressed, plain and with dendrites; the tiny one; one of the user's own data."""
    assert len({words[-1] for words in TRAININGS}) == len(TRAININGS) == 6
