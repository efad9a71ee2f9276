"""Every fault has a test that carries its number."""

import re
from pathlib import Path

import pytest

# Tracker 1-15, data 16-27, segment 28-42, 58, 59, share 43-50, 55-57, study 51-54.
NUMBERS = range(1, 60)


@pytest.mark.parametrize("number", NUMBERS)
def test_fault_has_a_test(number: int) -> None:
    tests = "".join(f.read_text() for f in Path(__file__).parent.glob("test_*_faults.py"))
    assert re.search(rf"def test_(?:fault_)?{number:02d}_", tests), f"fault {number} has no test"
