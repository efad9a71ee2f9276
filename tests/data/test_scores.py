"""Tables of scores: one reader and one writer, for evaluations and for studies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from perforated_monai.data.scores import CaseRow, case_table, read_cases, read_scores
from perforated_monai.errors import UserError
from perforated_monai.files import hash_of

EVALUATION = """case,dice_anterior,dice_posterior,hd95_mm_anterior
case_1,0.974831,,1.41421
case_2,0.5,0.25,inf
mean,0.737416,0.25,1.41421
"""
STUDY = """network,arm,seed,fold,case,dice_anterior
res4,base,0,1,case_1,0.5
res4,wide,0,1,case_1,
"""


def test_a_table_that_is_read_and_written_is_the_same(tmp_path: Path) -> None:
    for text, mean_row in ((EVALUATION, True), (STUDY, False)):
        (tmp_path / "cases.csv").write_text(text)
        assert case_table(read_cases(tmp_path / "cases.csv"), mean_row) == text


def test_rows_name_case_values_and_trial(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(EVALUATION)
    first, second = read_cases(tmp_path / "cases.csv")
    assert (first.case, first.trial) == ("case_1", {})
    assert math.isnan(first.values["dice_posterior"])
    assert first.mean("dice_") == 0.974831 and second.mean("dice_") == 0.375
    assert math.isnan(second.mean("hd95_"))
    (tmp_path / "cases.csv").write_text(STUDY)
    rows = read_cases(tmp_path / "cases.csv")
    assert rows[0] == CaseRow(
        "case_1",
        {"dice_anterior": 0.5},
        {"network": "res4", "arm": "base", "seed": "0", "fold": "1"},
    )


@pytest.mark.parametrize(
    "text", ["", "name,dice\na,1\n", "case,dice\na,high\n", "case,dice\na,1,2\n", "case,dice\na\n"]
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(UserError, match=r"cases\.csv must be a table with a column case"):
        read_cases(tmp_path / "cases.csv")


def test_a_missing_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cases\.csv cannot be read: No such file"):
        read_cases(tmp_path / "cases.csv")


def test_scores_leave_out_empty_and_infinite_cells(tmp_path: Path) -> None:
    assert read_scores(tmp_path) is None
    (tmp_path / "cases.csv").write_text(EVALUATION)
    about = {"table_sha256": hash_of(tmp_path / "cases.csv"), "part": "validation"}
    (tmp_path / "cases.json").write_text(json.dumps(about))
    scores = read_scores(tmp_path)
    assert scores is not None and scores.about["part"] == "validation"
    assert scores.columns == {
        "dice_anterior": [0.974831, 0.5],
        "dice_posterior": [0.25],
        "hd95_mm_anterior": [1.41421],
    }


def test_names_that_are_formulas_are_text_in_the_table_and_come_back(tmp_path: Path) -> None:
    names = ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\tx", "-5", "'quoted", "plain"]
    rows = [CaseRow(name, {"dice_a": -0.5}, {"network": "=n"}) for name in names]
    text = case_table(rows)
    for line in text.splitlines()[1:-1]:
        assert line.startswith("'=n,")
    assert "'=n,'=1+1,-0.5" in text and "'=n,-5,-0.5" in text and "'=n,plain,-0.5" in text
    (tmp_path / "cases.csv").write_text(text)
    back = read_cases(tmp_path / "cases.csv")
    assert [row.case for row in back] == names
    assert {row.trial["network"] for row in back} == {"=n"}
