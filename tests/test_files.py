"""Files are whole or absent: failures, kills and full disks leave what was there."""

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from perforated_monai.errors import UserError
from perforated_monai.files import (
    atomic,
    is_temporary,
    refuse_foreign,
    sha256,
    write_bytes,
    write_json,
    write_text,
)


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


# -- what is not ours stays ------------------------------------------------------------------


def test_temporary_files_carry_a_name_of_ours(tmp_path: Path, forked) -> None:
    """What other programs call their temporary files is none."""

    def killed() -> None:
        with atomic(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(killed)[0] == -signal.SIGKILL
    (half,) = names(tmp_path)
    assert is_temporary(half)
    for other in (".scan.nii.gz.12.tmp", ".x.tmp", half[1:], half + ".gz", f".{half}"):
        assert not is_temporary(other)


def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path: Path) -> None:
    name = "x" * 251 + ".txt"
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]


def test_a_name_that_is_too_long_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"too long\. Shorten the name"):
        write_text(tmp_path / ("x" * 300), "text")


def test_a_device_or_a_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "device").symlink_to(os.devnull)
    (tmp_path / "folder").mkdir()
    for name in ("device", "folder"):
        with pytest.raises(UserError, match=f"{name}: it is no regular file"):
            write_text(tmp_path / name, "text")
    assert names(tmp_path) == ["device", "folder"]
    assert (tmp_path / "device").is_symlink()


def test_text_of_a_name_that_is_no_utf8_is_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"case": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"case": name}


def test_a_file_of_other_content_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    refuse_foreign(file, "manifest", ["x"])
    file.write_bytes(b"")
    refuse_foreign(file, "manifest", ["x"])
    file.write_bytes(b'{"x": 1}')
    refuse_foreign(file, "manifest", ['"x"'])
    with pytest.raises(UserError, match=r"a\.json exists and is no manifest: it is kept"):
        refuse_foreign(file, "manifest", ['"x"', '"y"'])
