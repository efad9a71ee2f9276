"""Rules and their lists: every rule is in one list, and a list that holds none is refused."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter

import pytest

import perforated_monai
from perforated_monai.commands.check import rule_lists
from perforated_monai.rules import ERROR, Broken, Rule, run


def check(value: int):
    yield Broken(1 / value, "Correct it")


ODD = Rule("odd", "must be read", ERROR, False, check)


def rules_of_every_module() -> dict[str, set[str]]:
    """Name of each rule -> the modules that hold it."""
    places: dict[str, set[str]] = {}
    root = perforated_monai.__path__
    for found in pkgutil.walk_packages(root, "perforated_monai."):
        if found.name.split(".")[1] in ("data", "bundle"):
            module = importlib.import_module(found.name)
            for value in vars(module).values():
                if isinstance(value, Rule) and value.check.__module__ == found.name:
                    places.setdefault(value.name, set()).add(found.name)
    return places


def test_an_empty_list_of_rules_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have rules; got an empty list for model\.pt"):
        run((), "model.pt", 3)


def test_every_rule_is_in_exactly_one_list() -> None:
    listed = Counter(rule.name for rules in rule_lists().values() for rule in rules)
    places = rules_of_every_module()
    assert set(listed) == set(places)
    assert {name: count for name, count in listed.items() if count > 1} == {}
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
    assert len(listed) >= 60
    assert all(rule_lists().values())


def test_a_rule_is_still_a_function() -> None:
    assert [broken.value for broken in ODD(2)] == [0.5]


def test_only_a_foreign_subject_may_break_a_rule_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        run((ODD,), "file", 0)
    (finding,) = run((ODD,), "file", 0, foreign=True)
    assert finding.severity == ERROR and "ZeroDivisionError" in finding.value
