"""The model card: figures as the files have them, intervals, and "not measured" for the rest."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from perforated_monai import UserError
from perforated_monai.bundle.card import write_card
from perforated_monai.commands.main import main
from perforated_monai.data.scores import interval
from perforated_monai.files import hash_of

BUNDLES = sorted(p for p in (Path(__file__).resolve().parents[2] / "bundles").glob("*/"))
HIPPOCAMPUS = next(p for p in BUNDLES if p.name.startswith("hippocampus"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the hippocampus bundle."""
    return Path(shutil.copytree(HIPPOCAMPUS, tmp_path / HIPPOCAMPUS.name))


def evaluation(folder: Path, bundle: Path, dice: list[float], **about: object) -> Path:
    """What evaluate.json writes, with a class that is absent from the first case."""
    folder.mkdir()
    with (folder / "cases.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["case", "dice_anterior", "dice_posterior"])
        writer.writerows([[f"c{i}", d, "" if i == 0 else d / 2] for i, d in enumerate(dice)])
        writer.writerow(["mean", 9.0, 9.0])
    facts = {
        "cases": len(dice),
        "part": "validation",
        "fold": 0,
        "model_sha256": hash_of(bundle / "models" / "model.pt"),
        "table_sha256": hash_of(folder / "cases.csv"),
    }
    (folder / "cases.json").write_text(json.dumps(facts | about))
    return folder


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def row(text: str, name: str) -> list[str]:
    line = next(x for x in text.splitlines() if x.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda p: p.name)
def test_the_committed_card_is_what_the_files_give(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    committed = (folder / "docs" / "MODEL_CARD.md").read_bytes()
    assert write_card(copy).read_bytes() == committed


def test_the_command_writes_the_card_with_the_scores_of_an_evaluation(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    dice = [0.8, 0.9, 0.7, 0.95]
    scored = evaluation(tmp_path / "eval", bundle, dice)
    assert main(["card", str(bundle), "--evaluation", str(scored)]) == 0
    assert capsys.readouterr().out.strip() == str(bundle / "docs" / "MODEL_CARD.md")
    text = section((bundle / "docs" / "MODEL_CARD.md").read_text(), "Dice per class")
    low, high = stats.t.interval(0.95, 3, np.mean(dice), stats.sem(dice))
    assert high > 1  # cut: no Dice is
    expected = ["0.8375", f"{low:.4f} to 1.0000", "0.7000", "0.9500", "4"]
    assert row(text, "Dice, anterior") == expected
    assert row(text, "Dice, posterior")[-1] == "3"  # the absent class is left out
    assert "optimistic" in text
    assert (bundle / "docs" / "cases.csv").read_bytes() == (scored / "cases.csv").read_bytes()


def test_figures_are_those_of_the_files(bundle: Path) -> None:
    text = write_card(bundle).read_text()
    record = json.loads((bundle / "models" / "network.json").read_text())
    parity = json.loads((bundle / "models" / "parity.json").read_text())
    size = section(text, "Size and cost")
    assert f"{record['parameters']['total']:,} ({record['parameters']['base']:,} without" in size
    assert f"{parity['flops']['total'] / 1e9:.2f} G" in size
    first = parity["rows"][0]
    assert row(size, first["name"])[1].startswith(f"{first['ms_per_patch']['median']:.1f} ")
    events = record["trained"]["structure_history"]
    history = section(text, "Structure history")
    assert (
        history.count("\n| ") == 1 + len(events) and f"| {events[0]['epoch']} | grow |" in history
    )
    assert f"{record['trained']['epochs']} epochs" in section(text, "Training")
    counts = "166 cases trained, 42 validated, 52 kept apart"
    assert counts in section(text, "Data and split")
    assert "CC-BY-SA-4.0" in section(text, "Licences") and "Apache" in section(text, "Licences")


def test_the_fold_that_a_study_kept_apart_was_not_trained_on(tmp_path: Path) -> None:
    """Beside the fold that chose the epoch, a study's trial leaves another one out."""
    glioma = HIPPOCAMPUS.parent / "glioma_t1c_mri_dendritic"
    text = (glioma / "docs" / "MODEL_CARD.md").read_text()
    assert "17 cases trained, 6 validated, 7 kept apart" in section(text, "Data and split")
    assert "fold 0, which a study kept from this training" in section(text, "Dice per class")


def test_what_is_not_there_reads_not_measured(bundle: Path) -> None:
    for name in ("models/parity.json", "models/network.json", "docs/cases.csv", "docs/cases.json"):
        (bundle / name).unlink(missing_ok=True)
    text = write_card(bundle).read_text()
    for title in ("Training", "Dice per class", "Size and cost", "Structure history"):
        found = section(text, title)
        assert "not measured" in found and not any(sign.isdigit() for sign in found), found
    assert "Dice per class, Dice on the test part" in section(text, "Limits")


def test_a_network_that_never_grew_says_so(bundle: Path) -> None:
    file = bundle / "models" / "network.json"
    record = json.loads(file.read_text())
    record["trained"]["structure_history"] = []
    file.write_text(json.dumps(record))
    assert "never changed" in section(write_card(bundle).read_text(), "Structure history")


def test_times_of_another_network_are_left_out(bundle: Path) -> None:
    file = bundle / "models" / "parity.json"
    parity = json.loads(file.read_text())
    file.write_text(json.dumps(parity | {"parameters": {"base": 1, "total": 2}}))
    assert "Latency: not measured" in write_card(bundle).read_text()


def test_phantom_weights_are_named_first(bundle: Path) -> None:
    file = bundle / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["segment"]["phantom_weights"] = True
    file.write_text(json.dumps(metadata))
    text = write_card(bundle).read_text()
    assert "synthetic phantoms, not for patients" in text.split("\n# ")[1].split("##")[0]
    assert "synthetic phantoms, not for patients" in section(text, "Limits")


def test_scores_of_other_weights_are_not_shown(bundle: Path, tmp_path: Path) -> None:
    shutil.rmtree(bundle / "docs")
    evaluation(bundle / "docs", bundle, [0.8, 0.9], model_sha256="0" * 64)
    text = section(write_card(bundle).read_text(), "Dice per class")
    assert text.strip() == "Dice per class: not measured (docs/cases.csv is of other weights)."
    with pytest.raises(UserError, match="other weights"):
        write_card(bundle, evaluation(tmp_path / "eval", bundle, [0.8], model_sha256="0" * 64))


def test_broken_files_are_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    before = (bundle / "docs" / "MODEL_CARD.md").read_bytes()
    scored = evaluation(tmp_path / "eval", bundle, [0.8, 0.9])
    table = scored / "cases.csv"
    table.write_text(table.read_text().replace("0.8", "0.99"))
    with pytest.raises(UserError, match=r"cases\.csv must be as evaluate\.json wrote it"):
        write_card(bundle, scored)
    with pytest.raises(UserError, match="holds neither"):
        write_card(bundle, tmp_path)
    (scored / "cases.json").unlink()
    with pytest.raises(UserError, match="of one evaluation"):
        write_card(bundle, scored)
    with (bundle / "models" / "model.pt").open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(UserError, match=r"is not the file that models/network\.json describes"):
        write_card(bundle)
    (bundle / "models" / "parity.json").write_text("{")
    with pytest.raises(UserError, match="is no bundle"):
        write_card(tmp_path)
    assert (bundle / "docs" / "MODEL_CARD.md").read_bytes() == before


def test_damaged_records_are_one_line_on_the_command_line(
    bundle: Path, capsys: pytest.CaptureFixture
) -> None:
    (bundle / "models" / "network.json").write_text("[]")
    assert main(["card", str(bundle)]) == 1
    said = capsys.readouterr().err
    assert "network.json must hold a mapping" in said and said.count("\n") == 1


def test_intervals_are_students() -> None:
    values = [0.1, 0.4, 0.35, 0.8]
    found = interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert math.isclose(found.low, low) and math.isclose(found.high, high)
    assert (found.lowest, found.highest, found.cases) == (0.1, 0.8, 4)
    one = interval([0.5])
    assert (one.mean, one.low, one.high) == (0.5, None, None)
    assert interval([]) is None
