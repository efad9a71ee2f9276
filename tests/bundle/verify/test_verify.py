"""Hostile and broken bundles: refused with file and reason, nothing run, nothing left behind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from helpers.share_bundle import INFERENCE, TOP, Content, edit, put, read_zip, rezip
from helpers.spoiled_bundles import FOREIGN, REFUSED, spy
from perforated_monai import UserError
from perforated_monai.bundle.record import RECORD
from perforated_monai.bundle.verify.verify import (
    CODE_RULES,
    CONTENT_RULES,
    PACKED_RULES,
    Verdict,
    verify,
)
from perforated_monai.commands.main import main
from perforated_monai.rules import ERROR, NOTE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def judged(content: Content, tmp_path: Path, record: bool = True) -> tuple[Verdict, Path]:
    file = rezip(content, tmp_path / "spoiled.zip", record)
    return verify(file), file


def test_a_packed_bundle_is_verified(packed):
    verdict = verify(packed)
    assert (verdict.findings, verdict.foreign) == ([], [])
    assert (verdict.name, verdict.files) == (TOP, len(read_zip(packed)))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_for_good(name, content, tmp_path):
    rule, spoil = REFUSED[name]
    file = spoil(content)
    verdict, _ = judged(content, tmp_path, record=rule != "record")
    found = next(f for f in verdict.findings if f.rule == rule and f.severity == ERROR)
    assert verdict.broken
    assert file in (found.file, "")
    assert found.value and found.cure


@pytest.mark.parametrize("name", FOREIGN)
def test_refused_until_trusted(name, content, packed, tmp_path):
    rule, spoil = FOREIGN[name]
    if rule == "package":
        content = read_zip(packed)
    file = spoil(content)
    verdict, _ = judged(content, tmp_path)
    found = next(f for f in verdict.foreign if f.rule == rule)
    assert found.file == file
    assert found.value and found.cure


def test_the_command_shows_and_refuses_and_trusts(content, tmp_path, capsys):
    assert main(["verify", str(rezip(content, tmp_path / "whole.zip"))]) == 0
    assert "verified" in capsys.readouterr().out
    put(content, "scripts/own.py", spy())
    foreign = rezip(content, tmp_path / "foreign.zip")
    assert main(["verify", str(foreign)]) == 1
    shown = capsys.readouterr().out
    assert "scripts/own.py" in shown and "--trust" in shown
    assert main(["verify", str(foreign), "--trust"]) == 0
    assert "scripts/own.py" in capsys.readouterr().out
    content.pop("LICENSE")
    broken = rezip(content, tmp_path / "broken.zip")
    assert main(["verify", str(broken), "--trust"]) == 1
    shown = capsys.readouterr().out
    assert "LICENSE" in shown and "refused" in shown


def test_every_rule_of_verify_has_a_spoiled_bundle():
    names = {rule.name for rule in PACKED_RULES + CONTENT_RULES + CODE_RULES}
    spoiled = {rule for rule, _ in (*REFUSED.values(), *FOREIGN.values())}
    tested = spoiled & names
    others = {"plain-files", "file-names", "unread"}  # below, and of folders in test_verify_zips
    assert names == tested | others
    assert len(REFUSED) + len(FOREIGN) >= 80


def test_without_a_record_it_is_said(content, tmp_path):
    del content[RECORD]
    verdict, _ = judged(content, tmp_path, record=False)
    assert [f.rule for f in verdict.findings] == ["record"] and not verdict.broken


def test_another_form_is_named_as_unread(content, tmp_path):
    put(content, "models/model.onnx", b"\x08\x0a\x12\x07pytorch")
    verdict, _ = judged(content, tmp_path)
    assert not verdict.broken and not verdict.foreign
    assert [(f.rule, f.severity, f.file) for f in verdict.findings] == [
        ("unread", NOTE, "models/model.onnx")
    ]


def test_names_in_a_bundle_cannot_steer_the_terminal(content, tmp_path, capsys):
    edit(content, INFERENCE, **{"\x1b[2J\x1b]0;x\x07": "$open('a')"})
    assert main(["verify", str(rezip(content, tmp_path / "spoiled.zip"))]) == 1
    shown = capsys.readouterr().out
    assert "open" in shown and "\\x1b[2J" in shown
    assert all(c.isprintable() or c == "\n" for c in shown)


ODD = [
    "network_def: {_target_: UNet, when: 2020-01-01}\n1: 2\nnull: 3\n",
    "? {a: 1}\n: 2\n",
    "run: 2020-01-01 10:00:00\n+: 3\n'::': 4\n",
    "+network_def: 3\ntrain::handlers::99::x: 1\nnowhere::a::b: 1\n",
    "[]",
    "3",
    "",
    "\x00",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_yaml_is_judged_and_never_fails(text, content, tmp_path):
    put(content, "configs/odd.yaml", text)
    verdict, _ = judged(content, tmp_path)
    assert any(f.file == "configs/odd.yaml" for f in verdict.findings)


def test_bytes_changed_anywhere_never_fail_and_never_pass(content, tmp_path):
    """Either the zip is refused, or the change was in the padding that no file uses."""
    whole = rezip(content, tmp_path / "whole.zip").read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4])):
            near = rng.random() < 0.5  # the directory at the end, where most can go wrong
            at = len(data) - 1 - rng.randrange(3000) if near else rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
        (tmp_path / "spoiled.zip").write_bytes(data)
        try:
            verdict = verify(tmp_path / "spoiled.zip")
        except UserError:
            continue
        assert verdict.broken or read_zip(tmp_path / "spoiled.zip") == content
