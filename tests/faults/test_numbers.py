"""Every fault of a finished room has a test that carries its number."""

import re
from pathlib import Path

import pytest

# Rooms whose issues are worked on: tracker, data, segment, study. Share follows.
NUMBERS = [*range(1, 28), *range(28, 43), *range(51, 55), 58, 59]


@pytest.mark.parametrize("number", NUMBERS)
def test_fault_has_a_test(number: int) -> None:
    tests = "".join(f.read_text() for f in Path(__file__).parent.glob("test_*_faults.py"))
    assert re.search(rf"def test_(?:fault_)?{number:02d}_", tests), f"fault {number} has no test"
