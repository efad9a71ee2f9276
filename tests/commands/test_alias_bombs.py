"""A few lines of YAML that stand for millions: every command that reads a bundle's configs."""

import shutil
import time
from pathlib import Path

import pytest

from perforated_monai.commands.main import main

SHIPPED = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12)
)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("train", ["check", "BUNDLE"]),
        ("train", ["verify", "BUNDLE"]),
        ("train", ["overlay", "BUNDLE"]),
        ("inference", ["segment", "SCANS", "OUT", "--bundle", "BUNDLE"]),
        ("train", ["pack", "BUNDLE", "OUT.zip"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_it_is_refused_in_time(config: str, words: list[str], tmp_path: Path, capsys) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(SHIPPED, bundle, ignore=shutil.ignore_patterns("studies", "results"))
    (bundle / "configs" / f"{config}.json").unlink()
    (bundle / "configs" / f"{config}.yaml").write_text(BOMB)
    (tmp_path / "scans").mkdir()
    places = {
        "BUNDLE": str(bundle),
        "SCANS": str(tmp_path / "scans"),
        "OUT": str(tmp_path / "out"),
        "OUT.zip": str(tmp_path / "out.zip"),
    }
    start = time.process_time()
    code = main([places.get(word, word) for word in words])
    assert time.process_time() - start < 20  # unfolded it would take longer than anybody waits
    said = capsys.readouterr()
    assert code == 1
    assert f"{config}.yaml" in said.out + said.err and "alias" in said.out + said.err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.zip").exists()
