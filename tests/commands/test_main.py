"""Every command ends in one line and a documented exit code, whatever it is given."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.msd import fill
from perforated_monai.commands import main as door
from perforated_monai.commands.main import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fill(tmp_path / "data")


def refused(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command said on stderr, which is one line."""
    assert main(words) == code
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and said.startswith("perforated_monai: "), said
    return said


@pytest.mark.parametrize(
    "words",
    [
        ["segment", "", "{tmp}/out", "--bundle", "{tmp}"],
        ["segment", "{data}", "", "--bundle", "{tmp}"],
        ["check", ""],
        ["phantom", "--out="],
        ["verify", ""],
    ],
)
def test_an_empty_argument_is_not_the_current_folder(words, data, tmp_path, capsys) -> None:
    words = [word.format(tmp=tmp_path, data=data) for word in words]
    assert "an empty argument" in refused(words, 2, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "/dev/null/x"], "/dev/null/x cannot be made (Not a directory)"),
        (["phantom", "/dev/null/x"], "/dev/null/x: Not a directory. Choose another folder"),
        (["prepare", "phantom", "--root", "/dev/null/x"], "cannot be read: Not a directory"),
        (["check", "{data}/none"], "does not exist"),
        (["check", "{data}/imagesTr/case_01.nii.gz"], "is no folder"),
        (["check", "{data}", "--json", "{data}"], "it is no regular file"),
        (["check", "{data}", "--json", "/dev/null"], "it is no regular file"),
        (["check", "{tmp}/packed.zip"], "is a packed bundle and must be unpacked first"),
        (["export", "--bundle", "{tmp}/packed.zip"], "is a packed bundle"),
        (["overlay", "{tmp}/packed.zip"], "is a packed bundle"),
        (["card", "{tmp}/packed.zip"], "is a packed bundle"),
        (["pack", "{tmp}/packed.zip", "{tmp}/a.zip"], "is a packed bundle"),
        (["segment", "{data}", "{tmp}/o", "--bundle", "{tmp}/packed.zip"], "is a packed bundle"),
        (["segment", "{data}", "{tmp}/o", "--bundle", "{tmp}/nowhere"], "it does not exist"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words, said, data, tmp_path, capsys) -> None:
    (tmp_path / "packed.zip").write_bytes(b"PK")
    words = [word.format(tmp=tmp_path, data=data) for word in words]
    assert said in refused(words, 1, capsys)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["prepare", "--root", "{data}", "--write"], "imagesTr/case_01.nii.gz"),
        (["prepare", "--root", "{data}", "--write"], "notes.json"),
        (["check", "{data}", "--json"], "imagesTr/case_01.nii.gz"),
        (["check", "{data}", "--json"], "notes.json"),
        (["check", "{data}", "--report"], "labelsTr/case_01.nii.gz"),
        (["segment", "{data}", "{data}/out", "--bundle", "x", "--report"], "page.html"),
        (["demo"], "demo"),
    ],
)
def test_user_data_is_never_overwritten(words, file, data, capsys) -> None:
    (data / "notes.json").write_text('{"mine": 1}')
    (data / "page.html").write_text("<p>mine</p>")
    (data / "demo" / "runs").mkdir(parents=True)
    (data / "demo" / "demo.json").write_text('{"mine": 1}')
    (data / "demo" / "runs" / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    words = [*(word.format(data=data) for word in words), str(data / file)]
    assert "it is kept" in refused(words, 1, capsys)
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_what_our_own_commands_wrote_is_replaced(data, tmp_path) -> None:
    words = ["check", str(data), "--json", str(tmp_path / "f.json"), "--report"]
    for _ in range(2):
        assert main([*words, str(tmp_path / "r.html")]) == 0
        assert main(["prepare", "--root", str(data), "--write", str(tmp_path / "m.json")]) == 0


def test_a_manifest_beside_the_same_phantoms_is_kept(tmp_path: Path) -> None:
    assert main(["phantom", str(tmp_path / "p"), "--cases", "5"]) == 0
    own = (tmp_path / "p/manifest.json").read_text().replace('"phantom"', '"mine"', 1)
    (tmp_path / "p/manifest.json").write_text(own)
    assert main(["phantom", str(tmp_path / "p"), "--cases", "5"]) == 0
    assert (tmp_path / "p/manifest.json").read_text() == own


def test_an_error_that_no_rule_foresaw_is_one_line_too(capsys, monkeypatch) -> None:
    def broken(out: str = "") -> int:
        return {}[out]

    monkeypatch.setitem(door.COMMANDS, "demo", broken)
    said = refused(["demo", "x"], 1, capsys)
    assert "KeyError: 'x' (at " in said and "No rule names this" in said
    monkeypatch.setenv(door.TRACEBACK, "1")
    with pytest.raises(KeyError):
        main(["demo", "x"])


def test_a_printed_product_that_is_lost_is_a_failure(monkeypatch, tmp_path) -> None:
    """`overlay bundle > file` on a full disk must not end with 0 and an empty file."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    monkeypatch.setitem(door.COMMANDS, "overlay", lambda: print("product") or 0)
    monkeypatch.setitem(door.COMMANDS, "verify", lambda: print("verdict") or 0)
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert (main(["overlay"]), main(["verify"])) == (1, 0)
        full.flush()


def test_a_unicode_name_in_a_plain_locale(tmp_path: Path) -> None:
    """Python's own UTF-8 mode is off, as on a system that sets it so."""
    data = tmp_path / "Größe"
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
    for k in range(5):
        voxels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 3
        for folder in ("imagesTr", "labelsTr"):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), data / folder / f"fälle_{k}.nii.gz")
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["check", str(data), "--json", str(tmp_path / "f.json")]
    ended = subprocess.run(
        [sys.executable, "-m", "perforated_monai", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr and "5 of 5 cases" in ended.stdout


def test_a_current_folder_that_was_removed_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    """A native library ended the process with the code of wrong usage."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = refused(["check", str(tmp_path)], 1, capsys)
    monkeypatch.chdir(tmp_path)
    assert "the current folder was removed" in said
