"""The last line of a failed bundle run says the cause and what MONAI was busy with."""

import pytest
from monai.bundle import ConfigParser

from perforated_monai import UserError
from perforated_monai.bundle.last_line import last_line


def failure(config: dict, key: str = "run") -> BaseException:
    with pytest.raises(Exception) as caught:
        ConfigParser(config).get_parsed_content(key)
    return caught.value


def test_a_component_that_cannot_be_made_is_named() -> None:
    inner = {"_target_": "torch.optim.SGD", "params": [], "lr": "fast"}
    said = last_line(
        failure({"outer": {"_target_": "builtins.dict", "a": inner}, "run": "$@outer"})
    )
    assert said is not None and said.startswith("TypeError: ")
    assert said.endswith(", while making torch.optim.SGD from params, lr. Correct that setting.")


def test_an_expression_that_fails_is_named() -> None:
    error = failure({"a": 0, "run": "$1 / @a"})
    said = last_line(error)
    assert said is not None and said.startswith("ZeroDivisionError: division by zero, while ")
    assert "1 / " in said and said.endswith("Correct that setting.")
    assert "\n" not in said


def test_our_own_refusal_stays_as_it_is() -> None:
    wrapped = RuntimeError("Failed to evaluate ConfigExpression: x")
    wrapped.__cause__ = UserError("many lines\n  the last one.")
    assert (
        last_line(wrapped) == "  the last one.".strip() or last_line(wrapped) == "  the last one."
    )


@pytest.mark.parametrize(
    "error", [UserError("ours"), ValueError("bare"), KeyboardInterrupt(), SystemExit(3)]
)
def test_what_already_ends_right_gets_no_line(error: BaseException) -> None:
    assert last_line(error) is None
