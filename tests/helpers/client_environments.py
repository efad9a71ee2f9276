"""Virtual environments of the clients: made once from the package index, then reused."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CLIENTS_FOLDER", REPOSITORY / ".venv-clients"))
# What a packed bundle may count on; its own required_packages_version comes on top.
BARE = ["torch==2.13.0", "monai==1.6.1", "nibabel", "pytorch-ignite", "fire", "pyyaml"]
# Constraint lines keep torch: monailabel would take a newer torchvision and with it another torch.
PINS = ["torch==2.13.0", "torchvision==0.28.0", "monai==1.6.1"]
ENVIRONMENTS: dict[str, list[str]] = {
    "monai": [*BARE, str(REPOSITORY)],
    "bare": BARE,
    "label": ["torch==2.13.0", "torchvision==0.28.0", "monai==1.6.1", "monailabel==0.8.5"],
    "deploy": [
        *["torch==2.13.0", "monai==1.6.1", "monai-deploy-app-sdk==4.0.0"],
        *["nibabel", "pydicom", "highdicom", "pytorch-ignite"],
    ],
    "runtimes": ["numpy", "onnxruntime==1.31.1", "openvino==2026.4.1"],
    "hub": [*BARE, "huggingface_hub", str(REPOSITORY)],
    "mlflow": [*BARE, "mlflow==3.17.2", str(REPOSITORY)],
    "browser": ["playwright==1.65.2"],
}


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is made when missing or of other packages."""
    packages = ENVIRONMENTS[name]
    stamp = hashlib.sha256("\n".join([*packages, *PINS, sys.version]).encode()).hexdigest()
    folder = FOLDER / name
    python, mark = folder / "bin" / "python", folder / "made"
    if not (mark.is_file() and mark.read_text() == stamp):
        shutil.rmtree(folder, ignore_errors=True)
        _call([sys.executable, "-m", "venv", str(folder)])
        pins = folder / "pins.txt"
        pins.write_text("\n".join(PINS) + "\n")
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _call([*install, "-c", str(pins), "setuptools"])
        _call([*install, "-c", str(pins), *packages])
        mark.write_text(stamp)
    if str(REPOSITORY) in packages:
        _install_as_it_is(python)
    return python


@functools.cache
def _install_as_it_is(python: Path) -> None:
    """Our package again, once a process: the reused environment may hold an older one.

    From a copy, since setuptools would leave a ``build`` folder whose old files come back.
    """
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "source"
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, copy / name)
        shutil.copytree(REPOSITORY / "scripts", copy / "scripts")
        shutil.copytree(REPOSITORY / "data_manifests", copy / "data_manifests")
        _call([*install, "--no-deps", "--force-reinstall", "--no-build-isolation", str(copy)])


def run(
    name: str, program: str, *words: object, cwd: Path, path: Path | None = None, **variables: str
) -> str:
    """Run a file of ``clients/programs/`` in an environment; its standard output.

    Args:
        name: of the environment.
        program: file name, without ending.
        words: command line arguments.
        cwd: current folder.
        path: what PYTHONPATH names, if anything.
        variables: further environment variables.
    """
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    environment |= {"OMP_NUM_THREADS": "2", "ORT_DISABLE_TELEMETRY": "1", **variables}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    file = REPOSITORY / "tests" / "clients" / "programs" / f"{program}.py"
    return _call([str(python_of(name)), str(file), *map(str, words)], cwd, environment)


def _call(
    command: list[str], cwd: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout
