"""What imports what: exported bundles run without perforatedai, nothing needs torchvision."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.tiny import LAYER, spec_of
from perforated_monai import build_network

CLEAN = ["errors", "files", "rules"]
CLEAN += [f"dendrites.{n}" for n in ("layer", "block_layer", "reduced_layer", "kinds", "branches")]
CLEAN += [f"networks.{n}" for n in ("build", "weights", "delta")]
CLEAN += ["growth.to_plain", "data.dataset", "data.manifest"]
SPEC = spec_of({LAYER: {"count": 2, "kind": "copy", "activation": "sigmoid"}})

# Runs in a process where importing perforatedai fails, as on a machine that never grew anything.
WITHOUT_TRACKER = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "perforatedai":
            raise ImportError("perforatedai is blocked in this process")

sys.meta_path.insert(0, Blocker())
import perforated_monai
for name in {clean}:
    importlib.import_module("perforated_monai." + name)
for name in perforated_monai.__all__:
    getattr(perforated_monai, name)
assert "perforatedai" not in sys.modules

import torch
torch.set_num_threads(1)
network = perforated_monai.build_network({spec}).eval()
perforated_monai.load_weights(network, "model.pt")
x, expected = torch.load("example.pt", weights_only=True)
assert torch.equal(network(x), expected)

from perforated_monai.growth.tracker import Tracker
try:
    Tracker(network, perforated_monai.DendriteConfig(), "tracker").open()
except perforated_monai.UserError as error:
    print(error)
"""


def sources(repo: Path) -> list[Path]:
    found = sorted((repo / "scripts" / "perforated_monai").rglob("*.py"))
    assert len(found) > 10
    return found


def imported(file: Path) -> Iterator[str]:
    """Top-level names of every absolute import of a file, also those inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            yield from (
                a.value.split(".")[0]
                for a in node.args
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def test_the_clean_side_runs_without_perforatedai(repo: Path, tmp_path: Path, volume) -> None:
    torch.manual_seed(0)
    network = build_network(SPEC).eval()
    for parameter in network.get_submodule(LAYER).parameters():
        torch.nn.init.normal_(parameter)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    x = volume(batch=1)
    torch.save((x, network(x).detach()), tmp_path / "example.pt")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRACKER.format(clean=CLEAN, spec=SPEC)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repo / "scripts"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'perforated-monai[train]'" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["example.pt", "model.pt"]


@pytest.mark.parametrize("name", CLEAN)
def test_the_clean_side_exists(name: str, repo: Path) -> None:
    place = repo / "scripts" / "perforated_monai" / name.replace(".", "/")
    assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def test_one_module_imports_perforatedai(repo: Path) -> None:
    importers = [f.name for f in sources(repo) if "perforatedai" in imported(f)]
    assert importers == ["library.py"]


def test_nothing_imports_torchvision(repo: Path) -> None:
    importers = [f.name for f in sources(repo) if "torchvision" in imported(f)]
    assert importers == []


def test_scripts_holds_one_package(repo: Path) -> None:
    ignored = ("__pycache__", ".egg-info", ".md")  # a page is no module
    found = [p.name for p in (repo / "scripts").iterdir() if not p.name.endswith(ignored)]
    hint = "another module there would be importable by its bare name once this is installed"
    assert found == ["perforated_monai"], hint


def test_scripts_is_no_package_itself(repo: Path) -> None:
    hint = "a package called scripts shadows the scripts of every bundle run from this folder"
    assert not (repo / "scripts" / "__init__.py").exists(), hint


def test_the_name_does_not_begin_with_monai(repo: Path) -> None:
    # MONAI's component locator scans such packages: our classes would replace its own.
    packages = [p.name for p in (repo / "scripts").iterdir() if (p / "__init__.py").exists()]
    assert packages and not [name for name in packages if name.startswith("monai")]


def test_no_test_imports_a_test(repo: Path) -> None:
    hint = "what two tests need belongs into tests/helpers or a conftest.py"
    files = sorted((repo / "tests").rglob("*.py"))
    tests = {file.stem for file in files if file.name.startswith("test_")}
    assert len(tests) > 50
    importers = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            else:
                continue
            parts = {part for name in names for part in name.split(".")}
            if parts & tests:
                importers[file.name] = parts & tests
    assert importers == {}, hint


def test_the_tests_mirror_the_rooms(repo: Path) -> None:
    package = repo / "scripts" / "perforated_monai"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    tested = {path.name for path in (repo / "tests").iterdir() if any(path.glob("**/test_*.py"))}
    assert len(rooms) == 10 and rooms <= tested


def test_few_files_stand_beside_the_rooms(repo: Path) -> None:
    package = repo / "scripts" / "perforated_monai"
    beside = [path.name for path in package.iterdir() if path.is_file()]
    assert 0 < len(beside) <= 8, beside
