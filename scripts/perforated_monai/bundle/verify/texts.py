"""JSON and YAML files: within limits before they are parsed, then parsed and never evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from ...rules import Broken, rule
from ..check.files import no_key_twice
from ..record import RECORD
from .walk import Unpacked

DEEPEST = 50
MOST_NODES = 200_000
MOST_LIVE = 2_000  # strings that are expressions, references or macros
LONGEST_LIVE = 4_000
LONGEST_KEY = 300
ENDINGS = (".json", ".yaml", ".yml")


@rule("texts", "must be plain JSON or YAML of a sensible size")
def texts(bundle: Unpacked) -> Iterator[Broken]:
    for path in bundle.sizes:
        if not path.lower().endswith(ENDINGS) or path == RECORD:
            continue
        try:
            text = (bundle.root / path).read_bytes().decode("utf-8")
            content = _json(text) if path.lower().endswith(".json") else _yaml(text)
            _count(content)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            yield Broken(" ".join(str(error).split())[:200], "Refused", path)
        else:
            bundle.configs[path] = content


def _json(text: str) -> Any:
    depth = 0
    for sign in re.finditer(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.S)):
        depth += 1 if sign[0] in "[{" else -1
        if depth > DEEPEST:
            msg = f"more than {DEEPEST} levels of nesting"
            raise ValueError(msg)
    return json.loads(text, object_pairs_hook=no_key_twice)


def _yaml(text: str) -> Any:
    """Plain YAML: no anchors (they multiply), no tags (they make objects), no key twice."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            msg = f"line {event.start_mark.line + 1}: an anchor or alias; write it out"
            raise ValueError(msg)
        if getattr(event, "tag", None):
            msg = f"line {event.start_mark.line + 1}: a tag; plain values only"
            raise ValueError(msg)
        depth += isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
        depth -= isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
        if depth > DEEPEST:
            msg = f"more than {DEEPEST} levels of nesting"
            raise ValueError(msg)
    return yaml.load(text, Loader=_NoKeyTwice)


class _NoKeyTwice(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        pairs = [(str(self.construct_object(key, deep=True)), None) for key, _ in node.value]
        no_key_twice(pairs)
        return super().construct_mapping(node, deep)


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
