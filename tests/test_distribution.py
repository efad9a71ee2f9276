"""Wheel and sdist: whole, and enough to segment a phantom from an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tomllib
from packaging.requirements import Requirement

from helpers.harness import BUNDLE
from perforated_monai import __version__
from perforated_monai.inference.segment import Segmenter

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "scripts" / "perforated_monai"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "scripts/perforated_monai")
# What `pip install .` calls, without the download of a build environment.
BUILD = "import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"


def call(*words: object, cwd: Path) -> str:
    """A process that sees nothing of this checkout; its standard output."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def files_of(folder: Path) -> set[str]:
    """Every file of the package, as paths below ``scripts``."""
    paths = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(folder.parent).as_posix() for p in paths}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of a copy, since setuptools leaves ``build`` and ``egg-info`` where it builds."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(REPOSITORY / name)
    call(sys.executable, "-c", BUILD.format(kind="sdist"), "dist", cwd=folder)
    (made,) = (folder / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from nothing but the sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    call(sys.executable, "-c", BUILD.format(kind="wheel"), folder / "dist", cwd=source)
    (made,) = (folder / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of a new environment that holds the wheel, and borrows the packages it requires.

    Packages come from the environment of the tests, through a path file: it lends packages and
    not the editable install of this checkout, whose own path file is not read there.
    """
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    places = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=places))
    lent = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "lent.pth").write_text("\n".join(lent) + "\n")
    binaries = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python")
    # pip sees the lent packages as installed ones of another place, which it must not remove.
    options = ("--no-index", "--no-deps", "--ignore-installed", "--quiet")
    call(*pip, binaries / "python", "install", *options, wheel, cwd=folder)
    return binaries


def test_both_hold_every_file_of_the_package(sdist: Path, wheel: Path) -> None:
    files = files_of(PACKAGE)
    assert "perforated_monai/py.typed" in files
    assert len(files) > 100
    with zipfile.ZipFile(wheel) as archive:
        packed = {n for n in archive.namelist() if n.startswith("perforated_monai/")}
    assert packed == files
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"scripts/{name}" for name in files} | {"README.md", "LICENSE"} <= names


def test_the_wheel_says_what_it_is_and_needs(wheel: Path) -> None:
    info = f"perforated_monai-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    required = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert sorted(names_of(required)) == sorted(names_of(project["dependencies"]))
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    assert metadata["Version"] == __version__


def names_of(requirements: list[str]) -> list[str]:
    """Distribution names, without their versions."""
    return [Requirement(text).name for text in requirements]


def test_the_installed_wheel_segments_a_phantom(environment: Path, tmp_path: Path) -> None:
    program = environment / "perforated-monai"
    where = "import perforated_monai; print(perforated_monai.__file__)"
    package = Path(call(environment / "python", "-c", where, cwd=tmp_path).strip())
    assert package.is_relative_to(environment.parent)

    call(program, "phantom", "data", "--cases", "1", cwd=tmp_path)
    call(program, "segment", "data/imagesTr", "masks", "--bundle", BUNDLE, cwd=tmp_path)
    (scan,) = (tmp_path / "data" / "imagesTr").iterdir()
    (mask,) = (tmp_path / "masks").glob("*_seg.nii.gz")

    image = nib.load(scan)
    expected = Segmenter(BUNDLE, device="cpu")(np.asarray(image.dataobj, np.float32), image.affine)
    assert len(np.unique(expected.labels)) == 3
    assert np.array_equal(np.asarray(nib.load(mask).dataobj), expected.labels)
