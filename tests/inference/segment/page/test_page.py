"""The page of a run: what stands in it, what must not, and which folders have none."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import save
from perforated_monai.commands.main import main
from perforated_monai.errors import UserError
from perforated_monai.inference.segment.page import check_page_path, write_page
from perforated_monai.inference.segment.page.results import read_results
from perforated_monai.inference.segment.page.review import COLUMNS


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


@pytest.fixture(scope="module")
def page(done, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(done.masks, path)
    return path.read_text(encoding="utf-8")


def data_of(page: str, name: str = "data"):
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', page)[1])


def test_counts_and_failures_come_first(page):
    start = page.index("<body>")
    tiles = re.findall(r"<b[^>]*>(\d+)</b> ([\w ]+)", page[start : page.index("</ul>", start)])
    assert tiles == [
        *[("6", "cases"), ("5", "done"), ("1", "failed")],
        *[("4", "with an unusual volume"), ("0", "with a note"), ("0", "reviewed")],
    ]
    reason = page.index("its gzip data end early: the file was cut. Restore it.")
    assert page.index('class="tiles"') < reason < page.index('id="table"')


def test_names_are_text_and_nothing_else(page):
    read = Tags(page)
    assert page.count("<script") == 2 + 5  # data, the page's own, and the planes of five cases
    assert [tag for tag, _ in read.tags if tag == "img"] == []
    assert not [a for _, attributes in read.tags for a in attributes if a.startswith("on")]
    assert sum(a.get("type") != "application/json" for t, a in read.tags if t == "script") == 1
    names = [case["name"] for case in data_of(page)["cases"]]
    assert "<img src=x onerror=alert(1)>.nii.gz" in names
    assert "</script><script>alert(2)</x.nii.gz" in names
    assert "&lt;img src=x onerror=alert(1)&gt;.nii.gz" in page


def test_the_policy_lets_one_script_run_and_nothing_load(page):
    (policy,) = [
        a["content"] for t, a in Tags(page).tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    for kind, text in (
        ("script", re.search(r"<script>(.*?)</script>", page, re.S)[1]),
        ("style", re.search(r"<style>(.*?)</style>", page, re.S)[1]),
    ):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody fetches


def test_no_absolute_path_is_on_the_page(done, page):
    for folder in (done.source.parent, Path.home(), Path(__file__).parents[3]):
        assert str(folder) not in unescape(page)


def test_hashes_versions_and_engine_are_on_the_page(done, page):
    record = json.loads((done.masks / "run.json").read_text())
    assert record["bundle"]["weights_sha256"] in page and record["bundle"]["config_sha256"] in page
    assert "<dd>torch on cpu</dd>" in page and f"torch {record['versions']['torch']}" in page


def test_each_mask_has_three_planes_that_show_its_structures(page):
    cases = data_of(page)["cases"]
    for k, case in enumerate(cases):
        if case["done"]:
            planes = data_of(page, f"planes-{k}")
            assert [p["name"] for p in planes] == ["sagittal", "coronal", "axial"]
            seen = any(path for p in planes for path in p["outlines"])
            assert seen == (case["name"] != "case_1.nii.gz")  # which is empty
    assert f'id="planes-{[c["name"] for c in cases].index("cut.nii.gz")}"' not in page


def test_unusual_volumes_are_marked_with_their_score(page):
    row = re.search(
        r"<tr[^>]*><th[^>]*><button[^>]*>large<span[^>]*>\.nii\.gz.*?</tr>", page, re.S
    )[0]
    assert row.count('class="outlier"') == 1 and "▲" in row
    assert "z +3.5" in page and "with an unusual volume" in page


def test_structures_differ_in_grey(page):
    dashes = [structure["dash"] for structure in data_of(page)["structures"]]
    assert len(dashes) == len(set(dashes)) == 2


def test_both_commands_give_the_same_page(done, tmp_path, capsys):
    mine = done.copy(tmp_path / "mine")
    words = ["segment", str(mine.source), str(mine.masks), "--resume", "--report"]
    bundle = str(mine.source.parent / "bundle")
    assert main([*words, str(tmp_path / "a.html"), "--bundle", bundle]) == 3
    assert "Page: " in capsys.readouterr().out
    assert main(["report", str(mine.masks)]) == 0
    assert (tmp_path / "a.html").read_bytes() == (mine.masks / "report.html").read_bytes()


def test_a_page_that_cannot_be_written_is_refused_before_the_work(done, tmp_path, capsys):
    words = ["segment", str(done.source), str(tmp_path / "out"), "--bundle", "none", "--report"]
    assert main([*words, str(tmp_path / "page.txt")]) == 1
    assert main([*words, str(tmp_path / "no" / "page.html")]) == 1
    said = capsys.readouterr().err
    assert "must be a file that ends in .html" in said and "make the folder" in said
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="make the folder"):
        check_page_path(tmp_path / "no" / "page.html")


def refusal(capsys, *words: object) -> str:
    """What is said of a command that fails, in one line."""
    assert main(["report", *map(str, words)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_folders_without_a_page(done, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no output folder of segment" in refusal(capsys, tmp_path / "empty")
    mine = done.copy(tmp_path / "mine")
    (mine.masks / "cases.jsonl").write_text("")
    assert "no case in cases.jsonl" in refusal(capsys, mine.masks)
    row = {"case": "a", "status": "done", "reason": "", "volume_ml_anterior_hippocampus": 1}
    (mine.masks / "cases.jsonl").write_text(
        json.dumps(row | {"components_anterior_hippocampus": "x"})
    )
    assert "damaged row" in refusal(capsys, mine.masks)
    (mine.masks / "run.json").write_text('{"format": 2}')
    assert "must have format 1" in refusal(capsys, mine.masks)
    (mine.masks / "run.json").unlink()
    assert "--resume, which writes it" in refusal(capsys, mine.masks)
    assert not list(tmp_path.rglob("*.html"))


def test_a_study_is_told_from_masks(tmp_path, capsys):
    (tmp_path / "study.json").write_text("{}")
    assert "give report the study's file" in refusal(capsys, tmp_path)
    assert main(["report", str(tmp_path), "--images"]) == 2
    assert main(["report", "study.yaml", "--scans", "x"]) == 2
    said = capsys.readouterr().err
    assert "--images with a study file only" in said
    assert "--scans with a folder of masks only" in said


def test_masks_without_scans(done, tmp_path, capsys):
    mine = done.copy(tmp_path / "mine")
    elsewhere = tmp_path / "elsewhere"
    mine.source.rename(elsewhere)
    assert "Name where they lie: --scans DIR" in refusal(capsys, mine.masks)
    save(tmp_path / "other" / "z.nii.gz", np.zeros((8, 8, 8), "f4"))
    said = refusal(capsys, mine.masks, "--scans", tmp_path / "other")
    assert "holds no scan" in said
    assert main(["report", str(mine.masks), "--scans", str(elsewhere)]) == 0
    record = json.loads((mine.masks / "run.json").read_text())
    (mine.masks / "run.json").write_text(json.dumps(record | {"scans": None}))
    assert "does not say where its scans lie" in refusal(capsys, mine.masks)


def test_a_review_of_another_run_is_refused(done, tmp_path, capsys):
    case = next(c for c in read_results(done.masks).cases if c.name == "large.nii.gz")
    run = read_results(done.masks).run
    file, out = tmp_path / "review.csv", tmp_path / "page.html"
    words = [done.masks, "--out", out, "--reviewed", file]
    file.write_text(",".join(COLUMNS) + f"\n{'0' * 16},large.nii.gz,accepted,,{case.mask_sha256}\n")
    assert "is a review of another run" in refusal(capsys, *words)
    assert not out.exists()
    file.write_text(file.read_text().replace("0" * 16, run))
    assert main(["report", *map(str, words)]) == 0
    cases = {c["name"]: c for c in data_of(out.read_text())["cases"]}
    assert cases["large.nii.gz"]["verdict"] == "accepted"
    assert cases["case_0.nii.gz"]["verdict"] == ""


def test_what_cannot_be_shown_is_said(done, tmp_path):
    """Changed and missing files are never drawn as if they were those of the run."""
    mine = done.copy(tmp_path / "mine")
    save(mine.source / "case_0.nii.gz", np.zeros((14, 12, 10), "f4"))
    (mine.masks / "case_1_seg.nii.gz").unlink()
    (mine.masks / "large_seg.nii.gz").write_bytes(b"other")
    (mine.source / "<img src=x onerror=alert(1)>.nii.gz").unlink()
    write_page(mine.masks, tmp_path / "page.html")
    cases = {c["name"]: c for c in data_of((tmp_path / "page.html").read_text())["cases"]}
    assert "its scan changed" in cases["case_0.nii.gz"]["missing"]
    assert "its mask is gone" in cases["case_1.nii.gz"]["missing"]
    assert "its mask changed" in cases["large.nii.gz"]["missing"]
    assert "not among the scans" in cases["<img src=x onerror=alert(1)>.nii.gz"]["missing"]
    assert "4 of the 5 masks cannot be shown" in (tmp_path / "page.html").read_text()


def test_anonymous_runs_keep_no_way_to_their_scans(done, tmp_path, capsys):
    mine = done.copy(tmp_path / "mine")
    words = [str(mine.source), str(tmp_path / "out"), "--anonymous", "--report"]
    bundle = str(mine.source.parent / "bundle")
    assert main(["segment", *words, str(tmp_path / "p.html"), "--bundle", bundle]) == 3
    text = (tmp_path / "p.html").read_text()
    assert "case_0" not in text and "large.nii" not in text
    assert json.loads((tmp_path / "out" / "run.json").read_text())["scans"] is None
    assert len(re.findall(r'id="planes-\d+"', text)) == 5
