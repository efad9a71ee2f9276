"""``CaseTable``: what it never replaces."""

from pathlib import Path

import pytest
from ignite.engine import Engine, Events

from perforated_monai import CaseTable, UserError


@pytest.mark.parametrize(
    "text", ["case,status,reason\na,done,\n", "mine\n1\n", "case,dice_a\nx,high\n"]
)
def test_a_table_that_no_evaluation_wrote_is_kept(text: str, tmp_path: Path) -> None:
    """Such as that of `segment`, when both are given one output folder."""
    (tmp_path / "cases.csv").write_text(text)
    engine = Engine(lambda *_: None)
    CaseTable(tmp_path, {"dice": "dice"}, ["a"]).attach(engine)
    with pytest.raises(UserError, match="is no table of scores: it is kept"):
        engine.fire_event(Events.STARTED)
    assert (tmp_path / "cases.csv").read_text() == text


def test_a_table_of_an_earlier_evaluation_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,dice_a\nx,0.5\nmean,0.5\n")
    engine = Engine(lambda *_: None)
    CaseTable(tmp_path, {"dice": "dice"}, ["a"]).attach(engine)
    engine.fire_event(Events.STARTED)
