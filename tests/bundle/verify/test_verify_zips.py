"""Zips that no packer writes, and folders with odd files in them: refused before they are read."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile

import pytest

from helpers.share_bundle import TOP, entry, raw_zip
from perforated_monai import UserError
from perforated_monai.bundle.verify.verify import ZIP_RULES, verify
from perforated_monai.commands.main import main

LINK, PIPE = stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o644
SPOILED_ZIPS: dict[str, tuple[str, list[tuple[str | zipfile.ZipInfo, bytes]]]] = {
    "slip": ("zip-names", [("../ran", b"x")]),
    "slip inside": ("zip-names", [(f"{TOP}/configs/../../../ran", b"x")]),
    "absolute": ("zip-names", [("/tmp/ran", b"x")]),
    "drive": ("zip-names", [("C:/ran", b"x")]),
    "backslash": ("zip-names", [(f"{TOP}\\..\\ran", b"x")]),
    "device": ("zip-names", [(f"{TOP}/configs/con.json", b"{}")]),
    "line break": ("zip-names", [(f"{TOP}/docs/a\nb.md", b"x")]),
    "text that runs backwards": ("zip-names", [(f"{TOP}/docs/\u202egnp.md", b"x")]),
    "trailing dot": ("zip-names", [(f"{TOP}/docs/a.", b"x")]),
    "long": ("zip-names", [(f"{TOP}/docs/{'a' * 300}.md", b"x")]),
    "deep": ("zip-names", [(f"{TOP}/{'a/' * 30}a.md", b"x")]),
    "second name": (
        "zip-names",
        [(entry(f"{TOP}/docs/a.md", extra=struct.pack("<HH5s", 0x7075, 5, b"\1evil")), b"x")],
    ),
    "link": ("zip-kinds", [(entry(f"{TOP}/docs/a.md", LINK), b"/etc/passwd")]),
    "link to a folder": ("zip-kinds", [(entry(f"{TOP}/more", LINK), b"..")]),
    "pipe": ("zip-kinds", [(entry(f"{TOP}/docs/a.md", PIPE), b"")]),
    "folder with content": ("zip-kinds", [(entry(f"{TOP}/docs/a/", 0o40755), b"x")]),
    "odd compression": (
        "zip-kinds",
        [(entry(f"{TOP}/docs/a.md", compress_type=zipfile.ZIP_LZMA), b"x" * 99)],
    ),
    "same name": ("zip-twice", [(f"{TOP}/LICENSE", b"x")]),
    "same name in capitals": ("zip-twice", [(f"{TOP}/license", b"x")]),
    "same name in other letters": (
        "zip-twice",
        [(f"{TOP}/docs/\u00e9.md", b"x"), (f"{TOP}/docs/e\u0301.md", b"y")],
    ),
    "file in place of a folder": ("zip-twice", [(f"{TOP}/docs", b"x")]),
    "bomb": (
        "zip-size",
        [(entry(f"{TOP}/docs/a.md", compress_type=zipfile.ZIP_DEFLATED), b"0" * 50_000_000)],
    ),
    "two folders": ("zip-top", [("other/a.md", b"x")]),
}


@pytest.mark.parametrize("name", SPOILED_ZIPS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_spoiled_zip_is_refused_by_its_headers(name, content, tmp_path):
    rule, entries = SPOILED_ZIPS[name]
    file = raw_zip(tmp_path / "spoiled.zip", content, *entries)
    verdict = verify(file)
    found = [f for f in verdict.findings if f.rule == rule]
    assert found and verdict.broken and not verdict.foreign
    wanted = entries[-1][0]
    wanted = (wanted if isinstance(wanted, str) else wanted.orig_filename).rstrip("/")
    assert repr(wanted)[1:-1].split("/")[0] in " ".join(f.text() for f in found)


def test_an_encrypted_file_is_refused(content, tmp_path):
    file = raw_zip(tmp_path / "spoiled.zip", content)
    data = bytearray(file.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    file.write_bytes(data)
    rules = {f.rule for f in verify(file).findings}
    assert {"zip-kinds", "zip-layout"} <= rules


def test_files_that_share_bytes_are_refused(content, tmp_path):
    """Two names in the directory, one file in the zip: how the best bombs are made."""
    file = raw_zip(tmp_path / "spoiled.zip", content, (f"{TOP}/docs/a.md", b"x"))
    data = file.read_bytes()
    start = struct.unpack_from("<I", data, len(data) - 6)[0]
    second = data.index(b"PK\x01\x02", start + 4)
    spoiled = bytearray(data)
    spoiled[second + 42 : second + 46] = data[start + 42 : start + 46]
    file.write_bytes(spoiled)
    assert "zip-layout" in {f.rule for f in verify(file).findings}


def test_bytes_between_files_are_refused(content, tmp_path):
    """What no directory lists, another program may find."""
    file = tmp_path / "spoiled.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for k, (path, data) in enumerate(content.items()):
            archive.writestr(f"{TOP}/{path}", data)
            if k == 3:
                archive.fp.write(b"PK\x03\x04" + b"hidden" * 20)
                archive.start_dir = archive.fp.tell()
    assert "zip-layout" in {f.rule for f in verify(file).findings}


def test_a_header_that_promises_less_is_refused(content, tmp_path):
    """50 MB behind a header of 1000 bytes."""
    name = f"{TOP}/docs/a.md"
    packed = (entry(name, compress_type=zipfile.ZIP_DEFLATED), b"0" * 50_000_000)
    file = raw_zip(tmp_path / "spoiled.zip", content, packed)
    data = file.read_bytes()
    file.write_bytes(data.replace(struct.pack("<I", 50_000_000), struct.pack("<I", 1000)))
    with pytest.raises(UserError, match=r"docs/a\.md is damaged"):
        verify(file)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[: len(data) // 2], "its end is missing"),
        (lambda data: data[:-1], "its end is missing"),
        (lambda data: b"#!/bin/sh\n" + data, "nothing but its files"),
        (lambda data: data[:-2] + b"\x04\x00more", "its end is missing"),
        (lambda data: data + data, "nothing but its files"),
        (lambda data: b"", "its end is missing"),
        (lambda data: b"x" * 100, "its end is missing"),
        (lambda data: data.replace(b"Apache License", b"Apache Licence", 1), "LICENSE is damaged"),
    ],
    ids=["half", "a byte short", "a program first", "a comment", "twice", "empty", "no zip", "bit"],
)
def test_what_is_no_whole_zip_is_refused_in_one_line(spoil, said, packed, tmp_path, capsys):
    file = tmp_path / "spoiled.zip"
    file.write_bytes(spoil(packed.read_bytes()))
    assert main(["verify", str(file)]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_many_files_are_refused_before_they_are_listed(tmp_path):
    file = tmp_path / "many.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for k in range(5001):
            archive.writestr(f"{TOP}/configs/{k}", b"")
    with pytest.raises(UserError, match="at most 5000 files"):
        verify(file)


def test_a_folder_is_judged_where_it_lies(packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "there")
    before = sorted((tmp_path / "there").rglob("*"))
    verdict = verify(tmp_path / "there" / TOP)
    assert (verdict.findings, verdict.foreign) == ([], [])
    assert sorted((tmp_path / "there").rglob("*")) == before


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_odd_files_of_a_folder_are_refused_unread(kind, packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "there")
    odd = tmp_path / "there" / TOP / "docs" / "odd.md"
    if kind == "pipe":
        os.mkfifo(odd)  # reading it would wait for ever
    else:
        odd.symlink_to("/etc/passwd" if kind == "link" else "/etc")
    findings = verify(odd.parents[1]).findings
    assert {("plain-files", "docs/odd.md")} <= {(f.rule, f.file) for f in findings}


def test_a_folder_that_cannot_be_listed_is_refused(packed, tmp_path, forked):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "there")
    hidden = tmp_path / "there" / TOP / "docs" / "hidden"
    hidden.mkdir()
    hidden.chmod(0)

    def look() -> None:
        if os.geteuid() == 0:  # who may read everything
            tmp_path.chmod(0o755)
            os.setuid(65534)
        verify(hidden.parents[1])

    for folder in (tmp_path, *list(tmp_path.parents)[:3]):  # three with pytest-xdist, two without
        mode = folder.stat().st_mode
        if mode & 0o055 != 0o055:
            folder.chmod(mode | 0o055)
    try:
        code, said = forked(look)
    finally:
        hidden.chmod(0o755)
    assert code == 1 and "hidden cannot be listed" in said


@pytest.mark.slow  # a process of its own
def test_the_package_inside_a_bundle_does_not_judge_it(packed, tmp_path):
    """Run from inside the bundle, ``python -m`` takes the bundle's own copy."""
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    root = tmp_path / TOP
    words = ["-m", "perforated_monai", "verify", "."]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Run verify from another folder" in done.stderr


VERIFY_FOREVER = """
import sys
from perforated_monai.commands.main import main

while True:
    main(["verify", sys.argv[1]])
    print("again", flush=True)
"""


def test_terminated_in_its_midst_it_leaves_nothing(packed, temporary):
    # A process of its own, since a fork of one with OpenMP threads may crash before.
    command = [sys.executable, "-c", VERIFY_FOREVER, str(packed)]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as verifying:
        while b"again" not in verifying.stdout.readline():
            assert verifying.poll() is None
        time.sleep(random.uniform(0, 0.3))
        verifying.terminate()
        verifying.stdout.read()
    # Between two calls the signal itself ends it; the folder is empty all the same, see conftest.
    assert verifying.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)


def test_the_temporary_folder_goes_whole_though_a_signal_comes_in_its_removal(
    packed, temporary, monkeypatch
):
    remove = shutil.rmtree

    def disturbed(folder, *given, **named):
        signal.raise_signal(signal.SIGTERM)
        remove(folder, *given, **named)

    monkeypatch.setattr(shutil, "rmtree", disturbed)
    with pytest.raises(SystemExit) as left:
        main(["verify", str(packed)])
    assert left.value.code == 128 + signal.SIGTERM
    assert list(temporary.iterdir()) == []


def test_a_full_disk_is_named(packed, tmp_path, full_disk):
    said = full_disk(lambda: verify(packed), 10_000)
    assert "cannot be unpacked to be read" in said and "Free space" in said


def test_names_of_a_folder_that_clash_are_refused(packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "there")
    root = tmp_path / "there" / TOP
    (root / "license").write_text("x")
    (root / "docs" / "a:b.md").write_text("x")
    names = [f.file for f in verify(root).findings if f.rule == "file-names"]
    assert sorted(names) == ["'docs/a:b.md'", "license"]


def test_bytecode_that_use_left_behind_is_named(packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "there")
    cache = tmp_path / "there" / TOP / "perforated_monai" / "__pycache__"
    cache.mkdir()
    (cache / "network.cpython-311.pyc").write_bytes(b"x")
    (found,) = verify(cache.parents[1]).findings
    assert found.rule == "record" and "__pycache__" in found.file


def test_what_is_not_there_is_said(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nothing.zip")]) == 1
    assert "must be a zip or the folder of a bundle" in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 1
    assert main(["verify"]) == 2


def test_every_rule_on_zips_is_tested():
    rules = {rule.name for rule in ZIP_RULES}
    assert rules == {"zip-layout", *(rule for rule, _ in SPOILED_ZIPS.values())}
