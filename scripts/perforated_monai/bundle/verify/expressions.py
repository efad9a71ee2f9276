"""``$`` expressions read as syntax trees: what they name and call, without evaluating them."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Set

from .allowed import ATTRIBUTES, BUILTINS, ENVIRONMENT, MODULES, NAMES, ONLY_ARGUMENTS, is_module

# Names that MONAI gives to every expression; imports of a config come on top.
DEFAULT_NAMES: dict[str, set[str]] = {
    "monai": {"monai"},
    "torch": {"torch"},
    "np": {"numpy"},
    "numpy": {"numpy"},
}
REFERENCES = "__local_refs"  # what MONAI writes for an @reference
_PLAIN = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Load),
    *(ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword),
    *(ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Starred, ast.JoinedStr, ast.FormattedValue),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.Store),
    *(ast.Lambda, ast.arguments, ast.arg),
    *(ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
)
_LARGEST = 10**9  # of a number: a list or text of that length is no setting
_SETTABLE = "torch.backends.cudnn"
_SETTINGS = ("benchmark", "deterministic")


def read_import(text: str) -> tuple[str, str, str] | None:
    """``(name, what it stands for, what is wrong)`` of an import statement, or None.

    MONAI takes any expression whose first statement is an import for one.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    node = body[0] if body else None
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return None
    first = node.names[0]
    full, alias = first.name, first.asname or first.name
    allowed = MODULES.fullmatch(full) is not None
    if isinstance(node, ast.ImportFrom):
        full = f"{'.' * node.level}{node.module or ''}.{first.name}"
        # What it takes from a module may be anything, also a module of another name.
        allowed = full in NAMES or (bool(MODULES.fullmatch(full)) and is_module(full))
    problem = ""
    if len(body) > 1 or len(node.names) > 1:
        problem = "more than one import"
    elif not allowed:
        problem = f"import of {full}"
    elif alias in BUILTINS:
        problem = f"{alias} as a name for {full}"
    return alias, full, problem


def judge(text: str, names: Mapping[str, Set[str]]) -> list[str]:
    """What an expression names or does outside the allow-list; empty where there is nothing.

    Args:
        text: the expression behind ``$``, references replaced as MONAI does.
        names: name -> modules or objects it may stand for.
    """
    try:
        tree = ast.parse(text.lstrip(" \t"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ["an expression that cannot be read"]
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _stores(n)}
    shadowed = bound & {*names, *BUILTINS, REFERENCES, "setattr"}
    refused = [f"{name} as a name of its own" for name in sorted(shadowed)]
    try:
        refused += _Reader(names, bound).read(tree.body)
    except RecursionError:
        return ["an expression that cannot be read"]
    return list(dict.fromkeys(refused))


class _Reader:
    """Walks a tree from the top; each dotted name is judged as a whole."""

    def __init__(self, names: Mapping[str, Set[str]], bound: Set[str]) -> None:
        self.names, self.bound = names, bound

    def read(self, node: ast.AST) -> Iterator[str]:
        if not isinstance(node, _PLAIN):
            yield f"{type(node).__name__} in an expression"
            return
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield from self._dotted(node)
        elif not self._is_known_form(node):
            if isinstance(node, ast.Subscript) and _stores(node):
                yield f"assignment to {ast.unparse(node)}"
            if isinstance(node, ast.Call):
                yield from self._arguments(node)
            if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Pow, ast.LShift)):
                small = isinstance(node.right, ast.Constant) and _is_small(node.right.value, 16)
                if not small or isinstance(node.left, ast.BinOp):
                    yield "a power or shift that may have no end"
            if isinstance(node, ast.Constant) and not _is_small(node.value, _LARGEST):
                yield f"the number {str(node.value)[:20]}"
            if getattr(node, "is_async", False):
                yield "async in an expression"
            for inner in ast.iter_child_nodes(node):
                yield from self.read(inner)

    def _dotted(self, node: ast.Attribute | ast.Name) -> Iterator[str]:
        root, attributes = _chain(node)
        if _stores(node) and isinstance(node, ast.Attribute):
            yield f"assignment to {ast.unparse(node)}"
        elif not isinstance(root, ast.Name) or root.id in self.bound:
            yield from _unknown(attributes)
            if not isinstance(root, ast.Name):
                yield from self.read(root)
        elif root.id in self.names:
            for start in sorted(self.names[root.id]):
                yield from _known(".".join([start, *attributes]))
        elif root.id in BUILTINS:
            yield from _unknown(attributes)
        else:
            yield f"the name {root.id}"

    def _arguments(self, node: ast.Call) -> Iterator[str]:
        yield from self._of_objects(node)
        for full in self._meanings(node.func):
            if full in ONLY_ARGUMENTS:
                wrong = [k.arg for k in node.keywords if k.arg not in ONLY_ARGUMENTS[full]]
                if wrong or node.args:
                    yield f"{full} with more than {', '.join(ONLY_ARGUMENTS[full])}"

    def _of_objects(self, node: ast.Call) -> Iterator[str]:
        """An object that a component gives is called with what it works on, and nothing else.

        What else it takes is not judged here: ``SaveImage`` writes to any ``filename``.
        """
        root, attributes = _chain(node.func)
        known = isinstance(root, ast.Name) and root.id not in self.bound
        if not known and not attributes:
            spread = any(isinstance(a, ast.Starred) for a in node.args)
            if node.keywords or spread or len(node.args) > 1:
                yield f"{ast.unparse(node.func)[:40]} called with more than one argument"
        if isinstance(root, ast.Name) and root.id == "map" and len(node.args) > 2:
            yield "map over more than one list"

    def _meanings(self, node: ast.AST) -> list[str]:
        root, attributes = _chain(node)
        if not isinstance(root, ast.Name) or root.id in self.bound:
            return []
        return [".".join([start, *attributes]) for start in self.names.get(root.id, ())]

    def _is_known_form(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Subscript):
            return _is_reference(node) or self._is_environment(node)
        return isinstance(node, ast.Call) and self._is_setting(node)

    def _is_setting(self, node: ast.Call) -> bool:
        """``setattr(torch.backends.cudnn, 'benchmark', True)``, as zoo bundles write it."""
        if not (isinstance(node.func, ast.Name) and node.func.id == "setattr"):
            return False
        if len(node.args) != 3 or node.keywords or "setattr" in self.names:
            return False
        holder, key, value = node.args
        constants = isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
        return (
            constants
            and self._meanings(holder) == [_SETTABLE]
            and key.value in _SETTINGS  # type: ignore[attr-defined]
            and isinstance(value.value, bool)  # type: ignore[attr-defined]
        )

    def _is_environment(self, node: ast.Subscript) -> bool:
        key = node.slice
        known = isinstance(key, ast.Constant) and key.value in ENVIRONMENT
        return known and not _stores(node) and self._meanings(node.value) == ["os.environ"]


def _is_small(value: object, most: float) -> bool:
    return not isinstance(value, (int, float)) or abs(value) <= most or abs(value) == math.inf


def dotted(node: ast.AST) -> str:
    """``os.path.join`` as it is written; "" for anything else than names with dots."""
    root, attributes = _chain(node)
    return ".".join([root.id, *attributes]) if isinstance(root, ast.Name) else ""


def _known(full: str) -> Iterator[str]:
    """A dotted name from a module: the longest allowed part, then attributes of an object."""
    parts = full.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in NAMES:
            yield from _unknown(parts[end:])
            return
    yield full


def _unknown(attributes: list[str]) -> Iterator[str]:
    yield from (f"the attribute {name}" for name in attributes if name not in ATTRIBUTES)


def _chain(node: ast.AST) -> tuple[ast.AST, list[str]]:
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    return node, attributes


def _is_reference(node: ast.Subscript) -> bool:
    key = node.slice
    return (
        isinstance(node.value, ast.Name)
        and node.value.id == REFERENCES
        and isinstance(key, ast.Constant)
        and isinstance(key.value, str)
        and not _stores(node)
    )


def _stores(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))
