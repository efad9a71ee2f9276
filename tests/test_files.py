"""Files are whole or absent: failures, kills and full disks leave what was there."""

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from perforated_monai.errors import UserError
from perforated_monai.files import atomic, sha256, write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "one")
    write_text(file, "zwölf")
    assert file.read_bytes() == "zwölf".encode()
    assert names(tmp_path) == ["a.txt"]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "ü": {"b": True}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n") and "ü" in text


def test_sha256_is_the_usual_one() -> None:
    assert sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_a_failure_inside_leaves_the_old_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), atomic(file) as temporary:
        temporary.write_text("half")
        assert file.read_text() == "old"
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failure_inside_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert names(tmp_path) == []


def test_a_kill_inside_leaves_the_old_file_alone(tmp_path: Path, forked) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def killed() -> None:
        with atomic(file) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    code, _ = forked(killed)
    assert code == -signal.SIGKILL
    assert file.read_text() == "old"
    assert [n for n in names(tmp_path) if not n.startswith(".")] == ["a.txt"]


def test_a_full_disk_is_said_and_leaves_the_old_file_alone(tmp_path: Path, full_disk) -> None:
    file = tmp_path / "a.bin"
    write_bytes(file, b"old")
    said = full_disk(lambda: write_bytes(file, bytes(5000)), room=1000)
    assert said.startswith("UserError: Cannot write") and "a.bin" in said and "space" in said
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("parent", ["missing", "file.txt"])
def test_a_folder_that_cannot_be_written_is_named(parent: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("no folder")
    with pytest.raises(UserError, match=rf"Cannot write .*{parent}.*a\.txt"):
        write_text(tmp_path / parent / "a.txt", "text")
