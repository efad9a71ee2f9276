"""The tutorial of the hippocampus bundle: what is committed of it, and that it runs."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic" / "docs"
FILE = DOCS / "tutorial.ipynb"
CELLS = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
PROSE = "\n".join("".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown")


def outputs() -> str:
    return json.dumps([cell["outputs"] for cell in CODE], ensure_ascii=False)


def test_it_was_run_from_top_to_bottom_and_is_small() -> None:
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [o for cell in CODE for o in cell["outputs"] if o["output_type"] == "error"]
    assert FILE.stat().st_size < 400_000
    pictures = [o for cell in CODE for o in cell["outputs"] if "image/png" in o.get("data", {})]
    assert len(pictures) == 3  # Dice, a mask, a study
    assert "widgets" not in json.loads(FILE.read_text(encoding="utf-8"))["metadata"]


def test_its_outputs_show_growth_and_a_plain_network_and_no_folder() -> None:
    said = outputs()
    assert re.search(r"after epoch +\d+  grow ", said) and re.search(r"  (accept|reject) ", said)
    assert "tracker in this process: False" in said and "the bundle is as it was: True" in said
    folders = r"(?<![\w.:/])/(?:tmp|home|root|work|Users|var|opt)/"
    assert re.search(folders, "saved to /tmp/x") and not re.search(folders, said)


def test_its_prose_holds_no_measured_numbers() -> None:
    """Figures stand in the outputs, which are made again; prose would keep old ones."""
    assert not re.findall(r"\d\.\d\d", PROSE)


def test_its_links_and_extras_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PROSE)
    assert len(links) == 3
    assert all((DOCS / link).exists() for link in links)
    assert ".[train,notebook]" in PROSE


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs_from_top_to_bottom_in_five_minutes() -> None:
    """It trains two small networks in processes of their own: two minutes and more.

    The minutes are CPU time of the kernel and its processes, all together, which wall-clock time
    stays below where nothing else runs; on a busy machine the clock says how busy it is.
    """
    nbclient = pytest.importorskip("nbclient", reason="extra notebook is not installed")
    pytest.importorskip("ipykernel", reason="extra notebook is not installed")
    pytest.importorskip("perforatedai", reason="extra train is not installed: nothing can grow")
    import nbformat

    book = nbformat.read(FILE, as_version=4)
    start, before = time.monotonic(), os.times()
    resources = {"metadata": {"path": str(DOCS)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=resources).execute()
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    print(f"notebook: {cpu:.0f} s of CPU time, {time.monotonic() - start:.0f} s by the clock")
    assert 20 < cpu < 300
    said = json.dumps([cell.get("outputs", []) for cell in book.cells])
    assert "done: best Dice" in said and "the bundle is as it was: True" in said
