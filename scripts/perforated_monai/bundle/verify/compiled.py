"""``model.ts`` and ``model.pt2``: the operations that a compiled network would run."""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from ...rules import Broken, rule
from .walk import Unpacked
from .weights import pickled_globals

# Of TorchScript's own operations only these two open files; other namespaces are not judged.
_OPENS_FILES = ("from_file", "save")
_SCRIPT_NAMESPACES = ("prim", "aten")
_SCRIPT_FILES = re.compile(
    r"[^/]+/(code/.+\.(py|debug_pkl)|data\.pkl|constants\.pkl|data/\d+|constants/\d+|version"
    r"|byteorder|\.data/\w+|\.format_version|\.storage_alignment|extra/[\w.-]+)"
)
_PT2_FILES = re.compile(
    r"[^/]+/(data/(weights|constants)/[\w.-]+|data/sample_inputs/\w+\.pt|models/\w+\.json"
    r"|archive_format|archive_version|byteorder|\.data/\w+)"
)
_PT2_TARGETS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_(int|float|not|max|min|sum)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|eq|ne|lt|le|gt|ge|getitem|and_|or_)"
)
# SymPy evaluates these texts, so they may hold sizes and arithmetic only.
_SIZES = re.compile(r"([su]\d+|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|\d+|[\s+\-*/(),<>=])*")
_MOST_BYTES = 200 * 2**20


@rule("compiled", "must be a network of plain tensor operations")
def compiled(found: Unpacked) -> Iterator[Broken]:
    readers = {".ts": _script, ".pt2": _exported}
    for path in found.sizes:
        reader = readers.get(path[path.rfind(".") :].lower())
        if reader is None:
            continue
        try:
            with zipfile.ZipFile(found.root / path) as archive:
                wrong = list(dict.fromkeys(_limits(archive) or reader(archive)))
        except (zipfile.BadZipFile, ValueError, KeyError, RecursionError, SyntaxError) as error:
            wrong = [f"code that cannot be read ({' '.join(str(error).split())[:100]})"]
        yield from (Broken(p, "Leave it out, or make it again by export", path) for p in wrong[:5])


def _limits(archive: zipfile.ZipFile) -> list[str]:
    texts = [e for e in archive.infolist() if e.filename.endswith((".py", ".json", ".pkl", ".pt"))]
    large = sum(entry.file_size for entry in texts)
    return [f"{large:,} bytes of code"] if large > _MOST_BYTES else []


def _script(archive: zipfile.ZipFile) -> Iterator[str]:
    """TorchScript's source is Python's syntax: read every ``torch.x`` and ``ops.y.z`` in it."""
    for name in archive.namelist():
        if not _SCRIPT_FILES.fullmatch(name):
            yield f"{name}, which is no part of a network"
        elif name.endswith(".py"):
            for node in ast.walk(ast.parse(archive.read(name).decode("utf-8"))):
                yield from _operation(node)


def _operation(node: ast.AST) -> Iterator[str]:
    if not isinstance(node, ast.Attribute):
        return
    if isinstance(node.value, ast.Name) and node.value.id == "torch":
        if node.attr in _OPENS_FILES:
            yield f"torch.{node.attr}, which opens files"
    elif isinstance(node.value, ast.Attribute) and isinstance(node.value.value, ast.Name):
        space = node.value.attr
        if node.value.value.id == "ops" and space not in _SCRIPT_NAMESPACES:
            yield f"the operation {space}.{node.attr}"
        elif node.value.value.id == "ops" and node.attr in _OPENS_FILES:
            yield f"ops.{space}.{node.attr}, which opens files"


def _exported(archive: zipfile.ZipFile) -> Iterator[str]:
    for name in archive.namelist():
        if not _PT2_FILES.fullmatch(name):
            yield f"{name}, which is no part of a network"
        elif name.endswith(".json"):
            yield from _graph(json.loads(archive.read(name)))
        elif name.endswith(".pt"):
            with zipfile.ZipFile(io.BytesIO(archive.read(name))) as inner:
                for entry in inner.namelist():
                    if entry.endswith("/data.pkl"):
                        yield from pickled_globals(inner.read(entry))


def _graph(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        if not isinstance(item, dict):
            continue
        todo += item.values()
        target, size = item.get("target"), item.get("expr_str")
        if isinstance(target, str) and "inputs" in item and not _PT2_TARGETS.fullmatch(target):
            yield f"the operation {target[:80]}"
        if isinstance(size, str) and not _SIZES.fullmatch(size):
            yield f"the size {size[:80]!r}"
