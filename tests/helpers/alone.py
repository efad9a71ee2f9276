"""A process that has what a packed bundle may count on, and nothing of this checkout."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = ("torch", "monai", "numpy", "nibabel", "pytorch-ignite", "fire")

# Runs `python -m monai.bundle ...` where only the standard library and the allowed packages can be
# imported, and perforated_monai from inside the bundle alone. Prints where that came from.
PROGRAM = """
import json, runpy, sys
from importlib.machinery import PathFinder

words = json.loads(sys.argv[1])
allowed, checkout, root = words["allowed"], words["checkout"], words["root"]
# `make test` keeps its packages inside the checkout, in .venv.
sys.path[:] = [p for p in sys.path if not p.startswith(checkout) or "site-packages" in p]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]

class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "perforated_monai":
            spec = PathFinder.find_spec(name, path)
            if spec is None or not spec.origin.startswith(root):
                raise ModuleNotFoundError(f"{name} is not in the bundle", name=name)
            return spec
        standard = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if not standard and top not in allowed:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
        return None

sys.meta_path.insert(0, Only())
sys.argv = ["monai.bundle", *words["arguments"]]
try:
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
finally:
    found = sorted({m.split(".")[0] for m in sys.modules} - set(sys.stdlib_module_names))
    package = getattr(sys.modules.get("perforated_monai"), "__file__", "")
    print(json.dumps({"package": package, "modules": found}))
"""


def run_alone(
    root: Path,
    arguments: Iterable[object],
    packages: Iterable[str],
    home: Path,
    base: Iterable[str] = BASE,
) -> subprocess.CompletedProcess[str]:
    """Run MONAI's bundle command from the folder ``/``; its last line of output is JSON.

    Args:
        root: the unpacked bundle.
        arguments: behind ``python -m monai.bundle``.
        packages: distributions that may be imported, beside those of the base.
        home: a folder for whatever wants to write into the home folder.
        base: what every bundle may count on.
    """
    words = {
        "allowed": sorted(importable({*base, *packages})),
        "checkout": str(REPOSITORY),
        "root": str(root),
        "arguments": [str(word) for word in arguments],
    }
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, json.dumps(words)],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


def importable(packages: set[str]) -> set[str]:
    """Import names of distributions and of all that they require, extras left out."""
    todo, seen = list(packages), set()
    while todo:
        name = _plain(todo.pop())
        if name in seen:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # a build of torch may leave a part of its list out
        seen.add(name)
        wanted = map(Requirement, requires)
        todo += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    owners = importlib.metadata.packages_distributions()
    return {top for top, names in owners.items() if seen & set(map(_plain, names))}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
