"""JSON and YAML files: within limits before they are parsed, then parsed and never evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...data.reading import ENDINGS, from_json, from_yaml
from ...rules import Broken, rule
from ..record import RECORD
from .walk import Unpacked

DEEPEST = 50
MOST_NODES = 200_000
MOST_LIVE = 2_000  # strings that are expressions, references or macros
LONGEST_LIVE = 4_000
LONGEST_KEY = 300


@rule("texts", "must be plain JSON or YAML of a sensible size")
def texts(bundle: Unpacked) -> Iterator[Broken]:
    for path in bundle.sizes:
        if not path.lower().endswith(ENDINGS) or path == RECORD:
            continue
        try:
            text = (bundle.root / path).read_bytes().decode("utf-8")
            as_json = path.lower().endswith(".json")
            content = (
                from_json(text, DEEPEST) if as_json else from_yaml(text, DEEPEST, aliases=False)
            )
            _count(content)
        except ValueError as error:
            yield Broken(" ".join(str(error).split())[:200], "Refused", path)
        else:
            bundle.configs[path] = content


def _count(content: Any) -> None:
    nodes = live = 0
    todo = [content]
    while todo:
        value = todo.pop()
        nodes += 1
        if isinstance(value, dict):
            if any(len(str(key)) > LONGEST_KEY for key in value):
                msg = f"a key of more than {LONGEST_KEY} characters"
                raise ValueError(msg)
            todo += value.values()
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str):
            live += value[:1] in ("$", "@", "%")
            if value[:1] in ("$", "@", "%") and len(value) > LONGEST_LIVE:
                msg = f"an expression of more than {LONGEST_LIVE} characters"
                raise ValueError(msg)
    if nodes > MOST_NODES or live > MOST_LIVE:
        msg = f"{nodes} values, {live} of them live; at most {MOST_NODES} and {MOST_LIVE} are read"
        raise ValueError(msg)
