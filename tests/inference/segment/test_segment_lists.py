"""Lists of cases: what is in doubt is refused before anything is done, and says what to change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import (
    blocks,
    change,
    labels_of,
    make_rounding_bundle,
    read,
    reasons,
    save,
    segment,
)
from perforated_monai.errors import UserError
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.cases import find_cases


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Segmenter:
    """A bundle of two named channels."""
    folder = make_rounding_bundle(tmp_path_factory.mktemp("pair") / "b", channels=2)
    formats = read(folder, "metadata.json")["network_data_format"]
    formats["inputs"]["image"]["channel_def"] = {"0": "T1", "1": "T2"}
    change(folder, "metadata.json", network_data_format=formats)
    return Segmenter(folder, device="cpu")


@pytest.fixture
def root(tmp_path) -> Path:
    save(tmp_path / "a.nii", blocks(seed=1))
    save(tmp_path / "b.nii", blocks(seed=2))
    return tmp_path


REFUSED = {
    "two columns of one name": ("case,t1,T1\nx,a.nii,b.nii\n", "name each column once"),
    "two columns of cases": ("case,Case,t1,t2\nx,y,a.nii,b.nii\n", "name each column once"),
    "no header": ("a.nii,b.nii\nb.nii,a.nii\n", "line of column names"),
    "semicolons": ("case;t1;t2\nx;a.nii;b.nii\n", "it has semicolons"),
    "tabs": ("case\tt1\tt2\nx\ta.nii\tb.nii\n", "it has tabs"),
    "a column without a name": ("case,t1,\nx,a.nii,b.nii\n", "number 3 has no name"),
    "channels in another order": ("case,T2,t1\nx,a.nii,b.nii\n", "bundle's order: T1, T2"),
    "one channel in the place of another": ("case,flair,T1\nx,a.nii,b.nii\n", "bundle's channel 1"),
    "more cells than columns": ("case,t1,t2\nx,a.nii,b.nii,c.nii\n", "line 2, has more cells"),
    "no file": ("case,t1,t2\nx,,\n", "a row without a file, line 2"),
    "nothing": ("", "is empty"),
    "names alone": ("case,t1,t2\n", "holds no"),
    "a quote that never ends": ('case,t1,t2\n"x,a.nii,b.nii\n', "unexpected end"),
    "NUL": ("case,t1,t2\nx\0,a.nii,b.nii\n", "relative path"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_list_in_doubt_is_refused_with_a_cure(kind, root, pair):
    text, words = REFUSED[kind]
    (root / "list.csv").write_text(text)
    with pytest.raises(UserError, match=r"list\.csv") as caught:
        segment(root / "list.csv", root / "out", pair)
    assert words in str(caught.value) and str(caught.value).rstrip()[-1] in ".:"
    assert not (root / "out").exists()


ACCEPTED = {
    "names of the bundle": "case,T1,t2\nx,a.nii,b.nii\n",
    "names of their own": "case,first,second\nx,a.nii,b.nii\n",
    "no names of cases": "one,two\na.nii,b.nii\n",
    "the case behind": "t1,t2,CASE\na.nii,b.nii,x\n",
    "a mark of UTF-8, spaces, an empty line": "\ufeffcase, t1, t2\r\nx, a.nii, b.nii\r\n\r\n",
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_list_that_is_clear_is_done(kind, root, pair):
    (root / "list.csv").write_text(ACCEPTED[kind], newline="")
    summary = segment(root / "list.csv", root / "out", pair)
    assert summary.exit_code == 0
    (mask,) = (root / "out").glob("*_seg.nii.gz")
    assert np.array_equal(labels_of(mask), np.round(blocks(seed=1)))


def test_one_file_for_two_channels_is_refused_whatever_its_names(root, pair):
    (root / "link.nii").symlink_to("a.nii")
    os.link(root / "a.nii", root / "hard.nii")
    shutil.copy(root / "a.nii", root / "copy.nii")
    rows = ["same,a.nii,a.nii", "link,a.nii,link.nii", "hard,a.nii,hard.nii", "copy,a.nii,copy.nii"]
    (root / "list.csv").write_text("\n".join(["case,t1,t2", *rows, "lost,a.nii,no.nii"]) + "\n")
    summary = segment(root / "list.csv", root / "out", pair)
    found = reasons(summary)
    assert sorted(found) == ["hard", "link", "lost", "same"] and summary.exit_code == 3
    assert all("are one file" in found[name] for name in ("same", "link", "hard"))
    assert "no.nii cannot be opened (No such file" in found["lost"] and "channel 2" in found["lost"]
    assert "channels 1 and 2 hold the same voxels" in summary.rows[0]["notes"]


def test_a_missing_channel_is_not_replaced_by_the_next(root, tmp_path):
    one = make_rounding_bundle(tmp_path / "one")
    (root / "list.csv").write_text("case,t1,t2\nx,,b.nii\ny,a.nii,\n")
    summary = segment(root / "list.csv", root / "out", one)
    found = reasons(summary)
    assert summary.exit_code == 1 and "t1 of this case names no file" in found["x"]
    assert "t2 of this case names no file" in found["y"]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"training": []}',
        "[[1]]",
        '[{"image": "a.nii", "case": ["x"]}]',
        '[{"image": "a.nii", "case": true}]',
        '[{"image": []}]',
        '[{"images": "a.nii"}]',
        "[" * 100_000,
        "[null]",
        '[{"image": "a.nii", "case": "a\\u0000b"}]',
        '[{"image": "a.nii", "case": "../x"}]',
        '[{"image": "a.nii", "image": "b.nii"}]',
    ],
    ids=range(12),
)
def test_json_of_another_shape_is_refused(text, root):
    (root / "list.json").write_text(text)
    with pytest.raises(UserError, match=r"list\.json"):
        find_cases(root / "list.json", root / "out")


def test_a_list_that_is_no_regular_file_or_too_large_is_refused(root):
    os.mkfifo(root / "pipe.csv")
    (root / "zero.csv").symlink_to("/dev/zero")
    with (root / "large.csv").open("wb") as handle:
        handle.truncate(300 * 2**30)
    (root / "latin.csv").write_bytes(b"case,t1\nx\xe9,a.nii\n")
    for name, words in (
        ("pipe.csv", "a named pipe"),
        ("zero.csv", "a device"),
        ("large.csv", "more than 64 MiB"),
        ("latin.csv", "UTF-8"),
    ):
        with pytest.raises(UserError, match=words):
            find_cases(root / name, root / "out")


def test_input_and_output_must_be_named(root, monkeypatch):
    monkeypatch.chdir(root)
    for source, output in (("", "out"), (".", "")):
        with pytest.raises(UserError, match="one of them is empty"):
            find_cases(source, output)


def test_a_name_in_a_reason_does_not_steer_the_terminal(root, pair):
    (root / "list.csv").write_text("case,t1,t2\nx,a.nii,\x1b[31mb.nii\ny,\x1b[2J,b.nii\n")
    summary = segment(root / "list.csv", root / "out", pair)
    assert len(summary.failed) == 2
    assert all(row["reason"].isprintable() for row in summary.rows)
