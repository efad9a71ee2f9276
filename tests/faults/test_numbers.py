"""Every fault has a test that carries its number, ``@pytest.mark.fault(17)``."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

# Tracker 1-15, data 16-27, segment 28-42, 58, 59, share 43-50, 55-57, study 51-54.
NUMBERS = range(1, 60)


def load(file: Path) -> ModuleType:
    """A file of tests, apart from the copy that pytest collected."""
    spec = importlib.util.spec_from_file_location(f"numbers_of_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def marks(module: ModuleType) -> dict[str, list[pytest.Mark]]:
    """Test -> its markers."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    return {name: getattr(test, "pytestmark", []) for name, test in tests.items()}


@functools.cache
def tested() -> set[int]:
    """Numbers that a test of the default suite carries; a test of this folder without one fails."""
    numbers = set()
    for file in sorted(Path(__file__).parent.glob("test_*_faults.py")):
        for name, given in marks(load(file)).items():
            carried = [mark.args[0] for mark in given if mark.name == "fault"]
            assert carried, f"{file.name}: {name} carries no fault number"
            assert set(carried) <= set(NUMBERS), f"{file.name}: {name} carries {carried}"
            if not any(mark.name == "slow" for mark in given):
                numbers |= set(carried)
    return numbers


@pytest.mark.parametrize("number", NUMBERS)
def test_fault_has_a_test(number: int) -> None:
    assert number in tested(), f"fault {number} has no test in the default suite"
