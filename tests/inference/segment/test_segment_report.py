"""What stands in a log: one line a case, and never a carriage return."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from ignite.engine import Engine
from monai.bundle import ConfigParser

from helpers.segment_bundle import blocks, make_rounding_bundle, save
from perforated_monai.commands.main import main
from perforated_monai.inference.segment.report import Report

BUNDLES = sorted((Path(__file__).resolve().parents[3] / "bundles").glob("*_dendritic"))


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """stderr is a file, whose bytes are looked at afterwards."""
    with path.open("w") as handle, contextlib.redirect_stderr(handle):
        yield


def test_a_log_has_one_line_a_case(tmp_path):
    bundle, log = make_rounding_bundle(tmp_path / "b"), tmp_path / "log"
    for k in range(3):
        save(tmp_path / "in" / f"{k}.nii.gz", blocks(seed=k))
    (tmp_path / "in" / "bad.nii").write_bytes(b"no")
    arguments = ["segment", str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", str(bundle)]
    with log_file(log):
        assert main([*arguments, "--workers", "1"]) == 3
    assert b"\r" not in log.read_bytes()
    lines = log.read_text().splitlines()
    assert lines[:3] == [f"{k + 1}/4 {k}.nii.gz: done" for k in range(3)]
    assert lines[3].startswith("4/4 FAILED bad.nii: it must begin with a NIfTI header")
    assert len(lines) == 4
    with log_file(log):
        assert main([*arguments, "--workers", "1", "--resume"]) == 3
    lines = log.read_text().splitlines()
    assert lines[0] == "1/4 0.nii.gz: kept from before" and len(lines) == 4


def test_without_progress_nothing_is_said(tmp_path):
    with log_file(tmp_path / "log"), Report(1, enabled=False) as report:
        report.done({"case": "a", "status": "failed", "reason": "x", "notes": ["y"]})
    assert (tmp_path / "log").read_bytes() == b""


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_the_bar_of_a_bundle_writes_no_carriage_return_into_a_log(bundle, tmp_path):
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    (bar,) = parser.get_parsed_content("handlers")
    engine = Engine(lambda engine, batch: None)
    with log_file(tmp_path / "log"):
        bar.attach(engine)
        engine.run(range(5))
    assert b"\r" not in (tmp_path / "log").read_bytes()
