"""Where a text leads, as far as it can be known without running anything.

A text of a config is followed through references and through the few operations that paths are put
together with. What is only known when it runs stands in the result as a mark: ``INSIDE`` for a
place that is the bundle's or the user's, ``UNKNOWN`` for anything else.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from .expressions import REFERENCES, dotted

INSIDE, UNKNOWN = "\x01", "\x02"
_MOST = 24  # alternatives that are followed
_DEEPEST = 20  # references one after another
# What a user gives on the command line; a bundle's own value is an example of it.
_OF_THE_USER = re.compile(
    r"(dataset|data|input|image|images|label|labels)(_(file_base))?_dir|data_root"
)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*::?//|[a-z0-9]+::|[\\/]{2}", re.IGNORECASE)
_ABSOLUTE = re.compile(r"[\\/~]|[a-z]:[\\/]", re.IGNORECASE)
_JOINS = ("os.path.join",)
_SAME_PLACE = ("os.path.abspath", "os.path.normpath", "os.path.expanduser", "os.path.dirname")

Values = Mapping[str, Sequence[Any]]


def outside(text: str) -> str:
    """Why a place is not in the bundle, or "".

    Args:
        text: a path or address, with marks.
    """
    if _ADDRESS.match(text.strip()):
        return "an address"
    if _ABSOLUTE.match(text):
        return "a path outside the bundle"
    if ".." in re.split(r"[\\/]", text):
        return "a path that leaves its folder"
    return ""


def has_address(text: str) -> bool:
    """Whether an address of a server stands anywhere in a text."""
    return re.search(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


class Places:
    """Follows texts of the configs of a bundle.

    Args:
        values: id -> what any config holds under it; files can be merged in any way.
    """

    def __init__(self, values: Values) -> None:
        self.values = values

    def of(self, value: Any, identifier: str, depth: int = 0) -> list[str]:
        """Texts that an argument can become; what is neither text nor known gives nothing.

        Args:
            value: from a config.
            identifier: its own id, for relative references.
            depth: of references that led here.
        """
        if isinstance(value, list):
            return self._all(self.of(v, f"{identifier}::{k}", depth) for k, v in enumerate(value))
        if isinstance(value, dict):
            if "_target_" in value:
                return []  # a component, which is judged by itself
            return self._all(self.of(v, f"{identifier}::{k}", depth) for k, v in value.items())
        if not isinstance(value, str):
            return []
        if value[:1] not in ("$", "@", "%"):
            return [value]
        try:
            text = ConfigParser.resolve_relative_ids(identifier, value)
            if text[:1] in ("@", "%") and re.fullmatch(r"[@%][\w:#]+", text):
                return self._at(ReferenceResolver.normalize_id(text[1:]), depth)
            references = dict.fromkeys(ReferenceResolver.match_refs_pattern(text))
            text = ReferenceResolver.update_refs_pattern(text, references)
            tree = ast.parse(text.lstrip("$ \t"), mode="eval")
            return self._node(tree.body, depth)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return [UNKNOWN]

    def _at(self, identifier: str, depth: int) -> list[str]:
        if depth > _DEEPEST:
            return [UNKNOWN]
        found = self.values.get(identifier)
        if found is None:  # given on the command line, or refused by MONAI
            return [INSIDE]
        texts = self._all(self.of(value, identifier, depth + 1) for value in found)
        if _OF_THE_USER.fullmatch(identifier):
            return [INSIDE if outside(t).startswith("a path") else t for t in texts]
        return texts

    def _node(self, node: ast.AST, depth: int) -> list[str]:
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        if identifier := _reference(node):
            return self._at(identifier, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._together([node.left, node.right], depth)
        if isinstance(node, ast.JoinedStr):
            return self._together(node.values, depth)
        if isinstance(node, ast.FormattedValue):
            plain = node.format_spec is None and node.conversion == -1
            return (self._node(node.value, depth) or [UNKNOWN]) if plain else [UNKNOWN]
        if isinstance(node, ast.IfExp):
            return self._all(self._node(n, depth) for n in [node.body, node.orelse])
        if isinstance(node, ast.BoolOp):
            return self._all(self._node(n, depth) for n in node.values)
        if isinstance(node, (ast.List, ast.Tuple)):
            return self._all(self._node(n, depth) for n in node.elts)
        if isinstance(node, ast.Call) and not node.keywords:
            return self._call(node, depth)
        return [UNKNOWN]

    def _call(self, node: ast.Call, depth: int) -> list[str]:
        name = dotted(node.func)
        if name == "str" and len(node.args) == 1:
            return self._node(node.args[0], depth) or [UNKNOWN]
        if name in _SAME_PLACE and len(node.args) == 1:
            return self._node(node.args[0], depth)
        if name in _JOINS:  # an absolute part takes the place of what stands before it
            parts = [self._node(n, depth) or [UNKNOWN] for n in node.args]
            later = [t for texts in parts[1:] for t in texts if _ABSOLUTE.match(t)]
            joined = ["/".join(p) for p in itertools.islice(itertools.product(*parts), _MOST)]
            return [*joined, *later]
        return [UNKNOWN]

    def _together(self, nodes: Sequence[ast.AST], depth: int) -> list[str]:
        parts = [self._node(n, depth) or [UNKNOWN] for n in nodes]
        return ["".join(p) for p in itertools.islice(itertools.product(*parts), _MOST)]

    @staticmethod
    def _all(texts: Iterator[list[str]]) -> list[str]:
        return list(dict.fromkeys(text for some in texts for text in some))


def _reference(node: ast.AST) -> str:
    """The id behind what MONAI writes for a reference, or ""."""
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == REFERENCES
        and isinstance(node.slice, ast.Constant)
    ):
        return ReferenceResolver.normalize_id(str(node.slice.value))
    return ""
