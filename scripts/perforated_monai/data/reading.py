"""The one reader of JSON and YAML that somebody else may have written.

A file is judged before it is parsed and before what it holds is used: it is a regular file (a pipe
would never answer), not too large, nested no deeper than code can follow, without a key twice (of
two values both formats take the last without a word), without tags, and its aliases stay what they
abbreviate: a few lines of them can stand for more values than there is memory.
"""

from __future__ import annotations

import functools
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import yaml

YAML_ENDINGS = (".yaml", ".yml")
ENDINGS = (".json", *YAML_ENDINGS)
DEEPEST = 100  # levels; Python's own functions for nested values end at a few hundred
MOST_VALUES = 5_000_000  # with aliases written out
MOST_BYTES = 64 * 2**20
MOST_YAML = 4 * 2**20  # characters; its parser is a hundred times slower than that of JSON
_LONGEST_NUMBER = 1_000  # characters; a number of base 60 costs the square of its length
# Never fails inside a string, also one without an end: it would begin again at each quote in it.
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)|[\[\]{}]', re.DOTALL)


def read(path: str | Path, most_bytes: int = MOST_BYTES) -> Any:
    """What a JSON or YAML file holds; the ending says which, and JSON is the default.

    Raises:
        OSError: for a file that cannot be opened.
        ValueError: for one that is no regular file, too large, or not to be read; one line without
            the file's name.
    """
    path = Path(path)
    text = read_text(path, most_bytes)
    return from_yaml(text) if path.suffix.lower() in YAML_ENDINGS else from_json(text)


def read_or_refuse(path: str | Path, cure: str = "Correct it", most_bytes: int = MOST_BYTES) -> Any:
    """As ``read``, for callers without a message of their own.

    Raises:
        UserError: with file, reason and cure.
    """
    try:
        return read(path, most_bytes)
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read: {reason_of(error)}. {cure}."
        raise UserError(msg) from None


def read_mapping(
    path: str | Path, cure: str = "Correct it", most_bytes: int = MOST_BYTES
) -> dict[str, Any]:
    """As ``read_or_refuse``, for a file that must hold a mapping.

    Raises:
        UserError: also for any other content.
    """
    content = read_or_refuse(path, cure, most_bytes)
    if not isinstance(content, dict):
        msg = f"{path} must hold a mapping of keys; got {type(content).__name__}. {cure}."
        raise UserError(msg)
    return content


def reason_of(error: Exception) -> str:
    """Why a file could not be read, in one line without a full stop."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:300].rstrip(".")


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Text of a regular file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: for a file that cannot be opened.
        ValueError: for a device, pipe or folder, for too many bytes, or for other bytes than UTF-8.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is no regular file")
    if state.st_size > most_bytes:
        raise ValueError(f"it has {state.st_size:,} bytes, more than {most_bytes:,}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None


def from_json(text: str | bytes, deepest: int = DEEPEST) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: for text that is no JSON, nests too deep or has a key twice; one line.
    """
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    depth = 0
    for sign in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(sign[0], 0)
        if depth > deepest:
            raise ValueError(f"it nests more than {deepest} levels deep")
    try:
        return json.loads(text, object_pairs_hook=no_key_twice)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: no JSON ({error.msg})") from None
    except RecursionError:  # brackets behind an open quote, which the count above passes over
        raise ValueError("it nests too deep") from None


def from_yaml(text: str, deepest: int = DEEPEST, *, aliases: bool = True) -> Any:
    """What a YAML text says.

    Args:
        text: one document.
        deepest: levels of nesting.
        aliases: whether anchors and aliases may stand in it.

    Raises:
        ValueError: for text that is no YAML, nests too deep, has a key twice or a tag, or whose
            aliases stand for too much; one line.
    """
    if len(text) > MOST_YAML:
        raise ValueError(f"it has {len(text):,} characters of YAML, more than {MOST_YAML:,}")
    import yaml

    loader_class = _loader()
    try:
        _judge_events(text, deepest, aliases)
        node = yaml.compose(text, Loader=loader_class)
        if node is None:
            return None
        values, depth = _size(node, {})
        if values > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
        if depth > deepest:
            raise ValueError(f"it nests more than {deepest} levels deep")
        loader = loader_class("")
        try:
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(_yaml_reason(error)) from None
    except RecursionError:
        raise ValueError("it nests too deep") from None


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of the pairs, for ``json``.

    Raises:
        ValueError: naming a key that stands twice.
    """
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"the key {_short(key)} twice")
        mapping[key] = value
    return mapping


def _judge_events(text: str, deepest: int, aliases: bool) -> None:
    """Depth, tags and aliases, before anything is built; the parser itself does not recurse."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if not aliases and (isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None)):
            raise ValueError(f"line {line}: an anchor or alias; write it out")
        if getattr(event, "tag", None):
            raise ValueError(f"line {line}: a tag; plain values only")
        depth += isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
        depth -= isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
        if depth > deepest:
            raise ValueError(f"it nests more than {deepest} levels deep")


def _size(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values and levels that a node stands for, where each alias counts as what it repeats."""
    if id(node) not in known:
        known[id(node)] = (0, 0)  # in work
        sizes = [_size(child, known) for child in _children(node)]
        levels = 1 + max((depth for _, depth in sizes), default=0)
        known[id(node)] = (1 + sum(values for values, _ in sizes), levels)
    elif known[id(node)] == (0, 0):
        raise ValueError(f"line {node.start_mark.line + 1}: an alias of what holds it")
    return known[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if node.id == "sequence":
        yield from node.value
    elif node.id == "mapping":
        for key, value in node.value:
            yield key
            yield value


@functools.cache
def _loader() -> type[yaml.SafeLoader]:
    """A loader that refuses a key that stands twice, and numbers that would take hours to read.

    Made when it is asked for: inference by a bundle in JSON needs no PyYAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise ValueError(f"line {line}: a key that is no plain value")
                if key.tag.endswith(":merge"):  # what it brings in gives way to the own keys
                    continue
                if key.value in seen:
                    raise ValueError(f"line {line}: the key {_short(key.value)} twice")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            number = node.tag.endswith((":int", ":float"))
            if number and len(node.value) > _LONGEST_NUMBER:
                line = node.start_mark.line + 1
                raise ValueError(f"line {line}: a number of {len(node.value)} digits")
            return super().construct_object(node, deep)

    return Loader


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark is not None else reason_of(error)


def _short(key: object) -> str:
    return repr(key) if len(str(key)) <= 60 else repr(str(key)[:60] + "…")
