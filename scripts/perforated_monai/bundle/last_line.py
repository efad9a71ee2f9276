"""The last line of a bundle run that failed: the cause, not what MONAI wraps around it."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ..errors import UserError

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]

# What MONAI 1.6 raises around the cause, once for each component and expression on the way.
_COMPONENT = re.compile(r"Failed to instantiate component '(.+?)' with keywords: (\S*)")
_EXPRESSION = re.compile(r"Failed to evaluate (?:ConfigExpression:)?\s*(.+)", re.DOTALL)


def say_cause_last() -> None:
    """Let the process end with the cause of its error; then the former hook is restored."""
    before = sys.excepthook
    if getattr(before, "func", None) is not _print_cause_last:
        sys.excepthook = functools.partial(_print_cause_last, before)


def open_bars() -> list[tqdm]:
    """Progress bars of this process that are still open: tqdm has no public list of them."""
    return list(getattr(tqdm, "_instances", ()))


def last_line(error: BaseException) -> str | None:
    """One line that says the cause; None where the error's own last line does.

    A ``UserError`` anywhere among the causes says rule, value and cure. Any other cause is named
    with the component or expression that MONAI was busy with.
    """
    causes = list(_causes(error))
    ours = next((cause for cause in causes if isinstance(cause, UserError)), None)
    if ours is error or not isinstance(error, Exception):
        return None
    if ours is not None:
        # A DataLoader worker's error arrives as text that ends with the message.
        return str(ours).strip().splitlines()[-1]
    wrapped = [cause for cause in causes if _COMPONENT.match(str(cause))]
    wrapped = wrapped or [cause for cause in causes if _EXPRESSION.match(str(cause))]
    if not wrapped:
        return None
    root = causes[-1]
    text = " ".join(str(root).split())
    reason = f"{type(root).__name__}: {text}".removesuffix(".") if text else type(root).__name__
    return f"{reason}, while {_busy_with(str(wrapped[-1]))}. Correct that setting."


def _print_cause_last(
    before: Hook, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.excepthook = before
    # An open bar would clear its line behind our last one when the interpreter ends.
    for bar in open_bars():
        bar.close()
    before(kind, error, trace)
    said = last_line(error)
    if said is not None:
        print(f"Error: {said}", file=sys.stderr)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _busy_with(message: str) -> str:
    component = _COMPONENT.match(message)
    if component is not None:
        return f"making {component[1]} from {component[2].replace(',', ', ')}"
    expression = _EXPRESSION.match(message)
    assert expression is not None
    return f"evaluating {' '.join(expression[1].split())}"
