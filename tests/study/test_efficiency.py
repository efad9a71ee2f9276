"""The efficiency card: every figure from a file or a measurement, the front by definition."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.harness import BUNDLE, refused, train
from perforated_monai.commands.main import main
from perforated_monai.errors import UserError
from perforated_monai.study.efficiency.claims import controls, measured, read_claims
from perforated_monai.study.efficiency.figure import pareto, spread
from perforated_monai.study.efficiency.subject import Subject, read_subject

CLAIMS = BUNDLE / "docs" / "claims.yaml"


@pytest.fixture(scope="module")
def run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run that grew."""
    folder = tmp_path_factory.mktemp("efficiency") / "run"
    train(phantoms, folder, dendrites=True)
    return folder


@given(st.dictionaries(st.integers(), st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1))
def test_the_front_is_what_nothing_beats(points) -> None:
    front = pareto(points)
    assert front
    for name, (cost, score) in points.items():
        beats = [c <= cost and s >= score and (c, s) != (cost, score) for c, s in points.values()]
        assert (name in front) == (not any(beats))
    costs = [points[name] for name in front]
    assert costs == sorted(costs)


def test_bundle_and_run_side_by_side(run: Path, tmp_path: Path, capsys) -> None:
    words = [f"committed={BUNDLE}", f"tiny run={run}", "--out", str(tmp_path / "card")]
    words += ["--rounds", "2", "--window", "16,24,16", "--claims", str(CLAIMS)]
    assert main(["efficiency", *words]) == 0
    page = (tmp_path / "card" / "efficiency.md").read_text()
    assert str(tmp_path / "card" / "efficiency.md") in capsys.readouterr().out
    found = json.loads((tmp_path / "card" / "efficiency.json").read_text())
    record = json.loads((BUNDLE / "models" / "network.json").read_text())
    row = found["rows"]["committed"]
    assert row["parameters"] == record["parameters"]["total"]
    assert row["file_bytes"] == (BUNDLE / "models" / "model.pt").stat().st_size
    assert f"{row['parameters']:,}" in page
    mean, low, high = row["mean_dice"]
    assert low < mean < high and f"{mean:.4f}" in page
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=False)
    assert found["rows"]["tiny run"]["mean_dice"][0] == pytest.approx(best["dice"], abs=1e-6)
    assert found["rows"]["tiny run"]["mean_dice"][1:] == [None, None]
    for row in found["rows"].values():
        assert row["ms_1"]["median"] > 0 and row["ms_2"]["median"] > 0 and row["flops"] > 0
        assert (row["ms_gpu"] is None) == (not torch.cuda.is_available())
    assert (tmp_path / "card" / "efficiency.png").read_bytes().startswith(b"\x89PNG")
    assert "not measured" in page  # of the claims, networks that were not given
    cells = [line.split(" | ") for line in page.splitlines() if line.startswith("| tiny")]
    assert cells and all(row[-1] == "no meter |" or row[-1].endswith(" J |") for row in cells)
    assert all((row[-3] == "no GPU") == (not torch.cuda.is_available()) for row in cells)
    assert str(tmp_path) not in page


def test_the_same_cases_are_compared_in_pairs(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text("- {claim: c, network: a, against: b, quantities: [parameters, joules]}\n")
    cases = {f"c{i}": 0.8 + i / 100 for i in range(5)}
    small, large = (
        Subject(name, torch.nn.Identity(), {}, 0, 1, (), {}, values)
        for name, values in (("a", cases), ("b", {k: v + 0.01 for k, v in cases.items()}))
    )
    rows = {"a": {"parameters": 40, "joules": None}, "b": {"parameters": 100, "joules": None}}
    said = measured(read_claims(file)[0], [small, large], rows)
    assert "parameters -60.0 %, energy not measured (no meter), Dice -1.00 points" in said
    assert "95 % -1.00 to -1.00, 5 cases" in said
    other = Subject("b", torch.nn.Identity(), {}, 0, 1, (), {}, {"x": 0.5, "y": 0.6})
    assert "no interval" in measured(read_claims(file)[0], [small, other], rows)


def test_a_claim_that_a_study_alone_answers_needs_no_networks(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text("- {claim: c, study: s.yaml}\n")
    (claim,) = read_claims(file)
    assert measured(claim, [], {}) == "" and claim.study == tmp_path / "s.yaml"
    for words in ("claim: c", "claim: c, study: s.yaml, network: a", "claim: c, against: a"):
        file.write_text(f"- {{{words}}}\n")
        with pytest.raises(UserError, match=r"one lacks (network|against)"):
            read_claims(file)


def test_the_committed_page_says_of_the_studies_what_they_say() -> None:
    page = (BUNDLE / "docs" / "efficiency.md").read_text()
    said = [line for claim in read_claims(CLAIMS) for line in controls(claim)]
    assert said
    assert [line for line in said if f"\n  - {line}\n" not in page] == []


def test_scores_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / "b"))
    about = json.loads((bundle / "docs" / "cases.json").read_text())
    (bundle / "docs" / "cases.json").write_text(json.dumps(about | {"model_sha256": "0" * 64}))
    assert read_subject(str(bundle)).mean_dice is None
    assert read_subject(str(BUNDLE)).mean_dice is not None


@pytest.mark.parametrize(
    ("words", "code", "pattern"),
    [
        ([], 1, "got none"),
        (["{bundle}", "{bundle}"], 1, "twice"),
        (["{bundle}", "{tumour}"], 1, "as many channels"),
        (["{bundle}/docs"], 1, "it is neither"),
        (["{bundle}", "--window", "5,5,5"], 1, "cannot take a window of 5×5×5"),
        (["{bundle}", "--window", "a"], 2, "--window must be whole numbers"),
        (["{bundle}", "--rounds", "1"], 2, "--rounds must be"),
        (["{bundle}", "--claims", "{bundle}/LICENSE"], 1, "LICENSE must be a YAML list"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(
    words: list[str], code: int, pattern: str, tmp_path: Path, capsys
) -> None:
    tumour = BUNDLE.parent / "brain_tumor_mri_dendritic"
    given = [w.format(bundle=BUNDLE, tumour=tumour) for w in words]
    assert main(["efficiency", *given, "--out", str(tmp_path / "card")]) == code
    assert pattern in capsys.readouterr().err
    assert not (tmp_path / "card").exists()


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("- {claim: x}", "lacks network"),
        ("- {claim: x, network: a, against: b, than: 3}", "has 'than'"),
        ("- {claim: x, network: a, against: b, quantities: [speed]}", "quantities must be"),
        ("- {claim: x, network: a, against: b, quantities: flops}", "quantities must be"),
    ],
)
def test_bad_claims(text: str, pattern: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with refused(pattern):
        read_claims(tmp_path / "c.yaml")


def test_names_in_the_figure_keep_their_order_and_distance():
    assert spread([0.2, 0.5], 0.1) == [0.2, 0.5]
    assert spread([], 0.1) == []
    heights = [0.5, 0.52, 0.1, 0.5, 0.51]
    moved = spread(heights, 0.06)
    order = sorted(range(5), key=lambda i: heights[i])
    gaps = [moved[b] - moved[a] for a, b in itertools.pairwise(order)]
    assert min(gaps) >= 0.06 - 1e-12
    assert moved[2] == 0.1 and abs(sum(moved) - sum(heights)) < 0.1
