"""The page of `segment --report` in a real headless Chromium: sort, keyboard, save and read again.

Playwright drives the Chromium of the system (Debian: apt-get install chromium) and downloads none.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from helpers.client_environments import run
from helpers.segment_bundle import blocks, make_rounding_bundle, save
from perforated_monai.commands.main import main
from perforated_monai.inference.segment.page.picture import draw_planes
from perforated_monai.inference.segment.page.results import read_results
from perforated_monai.inference.segment.page.review import COLUMNS, read_reviews
from perforated_monai.inference.segment.page.write import _rendered

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1800)]
CASES = ["<img src=x onerror=alert(1)>.nii.gz", "a.nii.gz", "b.nii.gz", "cut.nii.gz", "wide.nii.gz"]


def chromium() -> str:
    names = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of five cases with its page, and a page of a thousand."""
    folder = tmp_path_factory.mktemp("page")
    bundle = make_rounding_bundle(folder / "bundle")
    for k, name in enumerate([CASES[0], "a.nii.gz", "b.nii.gz"]):
        save(folder / "in" / name, blocks((14 + 4 * k, 12, 10), seed=k))
    save(folder / "in" / "wide.nii.gz", blocks((40, 30, 30), seed=9))
    (folder / "in" / "cut.nii.gz").write_bytes((folder / "in" / "a.nii.gz").read_bytes()[:150])
    words = ["segment", str(folder / "in"), str(folder / "masks"), "--bundle", str(bundle)]
    assert main([*words, "--report", str(folder / "page.html")]) == 3
    write_large(folder / "masks", folder / "large.html")
    return folder


def write_large(masks: Path, page: Path) -> None:
    """A thousand cases that take nearly as much as a case may: noise, which packs badly."""
    rng = np.random.default_rng(0)
    labels = np.zeros((90, 90, 90), "u1")
    labels[20:40, 20:60, 20:60], labels[40:60, 20:60, 20:60] = 1, 2
    planes = draw_planes(rng.normal(size=labels.shape), labels, np.eye(4), [1, 2])
    results = read_results(masks)
    cases = [replace(results.done[k % 4], name=f"case_{k:04d}.nii.gz") for k in range(1000)]
    drawings = {case.name: (planes, "") for case in cases}
    page.write_text(_rendered(replace(results, cases=cases), drawings, {}), encoding="utf-8")
    assert 22e6 < page.stat().st_size < 40e6


@pytest.fixture(scope="module")
def found(folder) -> dict:
    """What the browser saw."""
    other = folder / "other.csv"
    other.write_text(",".join(COLUMNS) + f"\r\n{'0' * 16},a.nii.gz,accepted,,{'1' * 64}\r\n")
    words = (chromium(), folder / "page.html", folder / "large.html", other, folder)
    return json.loads(run("browser", "browser", *words, cwd=folder).splitlines()[-1])


def test_nothing_is_fetched_and_no_foreign_script_runs(found):
    assert set(found["requests"]) <= {"file", "data", "blob"}
    assert found["errors"] == []


def test_the_table_sorts(found, folder):
    results = {case.name: case for case in read_results(folder / "masks").cases}
    assert found["first"] == CASES
    (up, rising), (down, falling) = found["volume"]
    assert (up, down) == ("ascending", "descending")
    volumes = [results[name].measured[0].ml for name in rising[:4]]
    assert volumes == sorted(volumes) and volumes[0] < volumes[-1]
    assert rising[4] == falling[4] == "cut.nii.gz"  # without a volume: below, either way
    assert [results[n].measured[0].ml for n in falling[:4]] == volumes[::-1]
    confidences = [results[name].confidence for name in found["confidence"][1][:4]]
    assert confidences == sorted(confidences)
    seconds = [results[name].seconds for name in found["time"][1]]
    assert seconds == sorted(seconds)


def test_keys_go_through_the_cases_and_stop_at_the_ends(found):
    order = [CASES[k] for k in (0, 1, 2, 1, 0, 0)]
    assert [name for name, _, _ in found["keys"]] == order
    assert found["keys"][2][1] == "3 of 5" and all(n == 3 for _, _, n in found["keys"])
    assert found["bare"] is True


def test_planes_lie_apart_at_one_scale_and_the_table_beside_them_is_whole(found, folder):
    text = (folder / "page.html").read_text(encoding="utf-8")
    planes = json.loads(re.search(r'id="planes-0">(.*?)</script>', text)[1])
    both = list(zip(planes, found["planes"], strict=True))
    scales = [box[2 + k] / plane["size"][k] for plane, box in both for k in (0, 1)]
    assert scales == pytest.approx([scales[0]] * 6, rel=0.01)
    x, y, width, height = found["picture"]
    assert height > 300  # the picture is what people come for
    for left, top, across, down in found["planes"]:
        assert x <= left and left + across <= x + width and y <= top and top + down <= y + height
    for one, two in combinations(found["planes"], 2):
        gaps = [max(one[k] - two[k] - two[k + 2], two[k] - one[k] - one[k + 2]) for k in (0, 1)]
        assert max(gaps) > 0
    assert found["sideways"] == 0


def test_a_dark_screen_has_a_dark_page_and_paper_stays_white(found):
    assert found["paper"] == ["rgb(21, 24, 28)", "rgb(255, 255, 255)"]


def test_a_review_is_saved_and_read_again(found, folder):
    results = read_results(folder / "masks")
    assert found["nothing"].startswith("No case is reviewed yet")
    assert found["file"] == f"review_{results.run}.csv" and found["reviewed"] == "2"
    masks = {case.name: case.mask_sha256 for case in results.cases}
    reviews = read_reviews(folder / "review.csv", results.run, masks)
    comment = '=a "comma", here\nand f on a second line'
    assert reviews[CASES[0]].verdict == "flagged" and reviews[CASES[0]].comment == comment
    assert reviews[CASES[1]].verdict == "accepted" and len(reviews) == 2
    rows = list(csv.reader((folder / "review.csv").open(newline="")))
    assert rows[1][3].startswith("'=")  # no formula for a spreadsheet
    assert found["flagged"] == [CASES[0]]
    assert found["again"] == ["Loaded 2 reviewed cases.", "2"] and found["comment"] == comment


def test_a_review_of_another_run_is_refused_in_the_page(found):
    assert found["other"].startswith("This review is of another run (0000000000000000)")
    assert found["untouched"] == "0"


def test_a_phone_scrolls_down_only(found):
    assert found["width"] <= 390 and "wide.nii.gz" in found["outliers"]


def test_a_thousand_cases_open_in_two_seconds(found):
    """CPU seconds of the whole page; by the clock it takes as long where nothing else runs."""
    first, _, all_of_it, _ = found["seconds"]
    assert 0 < first <= all_of_it < 2, found["seconds"]
