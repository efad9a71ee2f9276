"""Hostile and broken bundles: refused with file and reason, nothing run, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from perforated_monai.__main__ import main
from perforated_monai.audit import ERROR, RULES
from perforated_monai.pack import RECORD
from perforated_monai.verify import Verdict, verify
from share_bundle import TOP, Content, put, read_zip, rezip
from spoiled_bundles import FOREIGN, REFUSED, spy

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
    scopes = ("packed", "content", "code")
    spoiled = {rule for rule, _ in (*REFUSED.values(), *FOREIGN.values())}
    tested = spoiled & {r.name for r in RULES.values() if r.scope in scopes}
    others = {"plain-files", "file-names"}  # of folders, as the rules on zips: test_verify_zips
    assert {r.name for r in RULES.values() if r.scope in scopes} == tested | others
    assert len(REFUSED) + len(FOREIGN) >= 80


def test_without_a_record_it_is_said(content, tmp_path):
    del content[RECORD]
    verdict, _ = judged(content, tmp_path, record=False)
    assert [f.rule for f in verdict.findings] == ["record"] and not verdict.broken
