"""Folder trees of an untidy world: nothing is passed over without a word, and nothing hangs."""

from __future__ import annotations

import gzip
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import blocks, labels_of, reasons, save, segment
from perforated_monai.errors import UserError
from perforated_monai.inference.segment.cases import find_cases


@pytest.fixture(autouse=True)
def no_hang():
    """What waits for a pipe waits for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def test_links_to_folders_are_named_and_fail_where_scans_are_behind_them(
    scans, segmenter, tmp_path, capsys
):
    save(tmp_path / "elsewhere" / "deep" / "x.nii", blocks())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    (scans / "link").symlink_to(tmp_path / "elsewhere")
    (scans / "nothing").symlink_to(tmp_path / "empty")
    (scans / "own").mkdir()
    (scans / "own" / "back").symlink_to(scans)  # an endless tree, for who follows it
    (scans / "loop").symlink_to("loop")
    (scans / "loop.nii").symlink_to("loop.nii")
    (scans / "gone.nii.gz").symlink_to("nowhere.nii.gz")
    summary = segment(scans, tmp_path / "out", segmenter)
    found = reasons(summary)
    assert sorted(found) == ["gone.nii.gz", "link", "loop.nii"] and summary.exit_code == 3
    assert "a link to a folder with scans" in found["link"]
    assert "gone.nii.gz cannot be opened (No such file" in found["gone.nii.gz"]
    assert "loop.nii cannot be opened" in found["loop.nii"]
    assert find_cases(scans, tmp_path / "out")[1] == [
        "3 linked folders (link, nothing, own/back)",
        "1 other file (loop)",
    ]


def test_scans_under_other_names_fail_by_name(scans, segmenter, tmp_path):
    whole = (scans / "0.nii.gz").read_bytes()
    for name, data in (
        ("packed.nii.Z", b"\x1f\x9d" + bytes(90)),
        ("packed.nii.xz", b"\xfd7zXZ" + bytes(90)),
        ("scan.nii.gz.bak", whole),
        ("scan", gzip.decompress(whole)),
        ("scan.img.gz", whole),
        ("plain.nii.gz", gzip.decompress(whole)),
        ("packed.nii", whole),
        ("zipped.nii", b"PK\x03\x04" + bytes(90)),
    ):
        (scans / name).write_bytes(data)
    summary = segment(scans, tmp_path / "out", segmenter)
    found = reasons(summary)
    assert len(found) == 8 and summary.exit_code == 3
    assert "Convert it to NIfTI" in found["packed.nii.Z"] and "Convert" in found["packed.nii.xz"]
    assert all("under another name" in found[name] for name in ("scan.nii.gz.bak", "scan"))
    assert "Rename it to .nii, or compress" in found["plain.nii.gz"]
    assert "it is gzip. Rename it to .nii.gz" in found["packed.nii"]
    assert "it is zip. Unpack" in found["zipped.nii"]


def test_pipes_devices_and_sockets_are_never_opened(scans, segmenter, tmp_path):
    os.mkfifo(scans / "pipe.nii")
    os.mkfifo(scans / "pipe.dcm")
    os.mkfifo(scans / "pipe")
    (scans / "zero.nii").symlink_to("/dev/zero")
    (scans / "endless.nii.gz").symlink_to("/dev/urandom")
    summary = segment(scans, tmp_path / "out", segmenter)
    found = reasons(summary)
    assert summary.exit_code == 3 and len(summary.rows) - len(found) == 3
    assert "a named pipe" in found["pipe.nii"] and "a device" in found["zero.nii"]
    assert "a device" in found["endless.nii.gz"]
    with pytest.raises(UserError, match="holds no"):
        find_cases(scans / "none", tmp_path / "out") if (scans / "none").mkdir() is None else None
    one = segment(scans / "pipe.nii", tmp_path / "one", segmenter)
    assert one.exit_code == 1 and "a named pipe" in reasons(one)["pipe.nii"]


def test_sparse_files_of_300_gigabytes_are_refused_before_they_are_read(scans, segmenter, tmp_path):
    for name in ("0.nii.gz", "plain.nii"):
        if not (scans / name).exists():
            save(scans / name, blocks())
        with (scans / name).open("r+b") as handle:
            handle.truncate(300 * 2**30)
    with (scans / "empty.nii").open("wb") as handle:
        handle.truncate(300 * 2**30)
    summary = segment(scans, tmp_path / "out", segmenter)
    found = reasons(summary)
    assert sorted(found) == ["0.nii.gz", "empty.nii", "plain.nii"] and summary.exit_code == 3
    assert "it has 322,122,547,200" in found["0.nii.gz"] and "it has" in found["plain.nii"]


def test_a_tree_with_nothing_to_do_says_what_was_there(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "notes.txt").write_text("none")
    with pytest.raises(UserError, match=r"1 other file \(deep/notes.txt\)"):
        find_cases(tmp_path / "in", tmp_path / "out")


def test_folders_named_as_volumes_are_searched(segmenter, tmp_path):
    save(tmp_path / "in" / "a.nii.gz" / "a.nii.gz", blocks())
    assert segment(tmp_path / "in", tmp_path / "out", segmenter).exit_code == 0
    found = labels_of(tmp_path / "out" / "a.nii.gz" / "a_seg.nii.gz")
    assert np.array_equal(found, np.round(blocks()))
    assert not list(Path(tmp_path / "out").glob("*.tmp"))


def test_tables_that_are_pipes_or_endless_do_not_hold_a_run(scans, segmenter, tmp_path):
    (scans / "sub").mkdir()
    os.mkfifo(scans / "sub" / "cases.csv")
    os.mkfifo(scans / "sub" / "cases.jsonl")
    assert segment(scans, tmp_path / "out", segmenter).exit_code == 0
    for name in ("cases.csv", "cases.jsonl"):
        output = tmp_path / name
        output.mkdir()
        os.mkfifo(output / name)
        with pytest.raises(UserError, match="not a table of segment"):
            segment(scans, output, segmenter)
