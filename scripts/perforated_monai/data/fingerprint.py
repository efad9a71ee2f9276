"""A hash of transforms that changes with what they do, and with nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import types
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader
from monai.transforms import Randomizable, Transform

from ..errors import UserError

# Their version is in the hash, the code of their functions is not.
_LIBRARIES = {"monai", "torch", "numpy", "builtins", "abc", "typing", "collections", "functools"}


def transform_hash(transform: Any) -> str:
    """sha256 over the classes, settings and functions of transforms, and the library versions.

    Raises:
        UserError: for a setting without a stable description.
    """
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("monai", "torch", "numpy")
    ]
    text = "\n".join([*versions, describe(transform)])
    return hashlib.sha256(text.encode()).hexdigest()


def describe(value: Any, inside: tuple[int, ...] = ()) -> str:
    """A text that changes with what the value does, and with nothing else."""
    if id(value) in inside:
        return "<itself>"
    inside = (*inside, id(value))
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, (np.ndarray, torch.Tensor, np.generic)):
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return f"array {array.dtype} {array.shape} {digest}"
    if isinstance(value, dict):
        rows = sorted(f"{describe(k, inside)}: {describe(v, inside)}" for k, v in value.items())
        return "{" + ", ".join(rows) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(describe(v, inside) for v in value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(describe(v, inside) for v in value) + "]"
    if isinstance(value, (torch.dtype, torch.device, np.dtype, Path, slice, range)):
        return repr(value)
    return _describe_code(value, inside)


def _describe_code(value: Any, inside: tuple[int, ...]) -> str:
    if isinstance(value, partial):
        return f"partial {describe([value.func, value.args, value.keywords], inside)}"
    if isinstance(value, types.MethodType):
        return f"method {describe([value.__self__, value.__func__], inside)}"
    if isinstance(value, types.CodeType):
        parts: list[Any] = [value.co_code, value.co_consts, value.co_names, value.co_varnames]
        return f"code {describe(parts, inside)}"
    if isinstance(value, types.FunctionType):
        cells = []
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # a cell that is not filled yet
                cells.append(cell.cell_contents)
        if value.__module__.split(".")[0] in _LIBRARIES:
            return f"{value.__module__}.{value.__qualname__} {describe(cells, inside)}"
        used = [value.__globals__.get(name) for name in value.__code__.co_names]
        used = [u for u in used if isinstance(u, (types.FunctionType, int, float, str, tuple))]
        parts = [value.__qualname__, value.__code__, value.__defaults__, cells, used]
        return f"function {describe(parts, inside)}"
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, (type, types.BuiltinFunctionType, np.ufunc)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"
    if hasattr(value, "__dict__"):
        settings = {k: v for k, v in vars(value).items() if not _is_state(value, k)}
        return f"{_describe_class(type(value), inside)} {describe(settings, inside)}"
    msg = f"cache_dir cannot tell when a {type(value).__name__} changes. Leave it out."
    raise UserError(msg)


def _describe_class(kind: type, inside: tuple[int, ...]) -> str:
    """Name of a class and, outside the libraries whose version counts, the code of its methods."""
    code = [
        describe(method, inside)
        for each in kind.__mro__
        if each.__module__.split(".")[0] not in _LIBRARIES
        for _, method in sorted(vars(each).items())
        if isinstance(method, types.FunctionType)
    ]
    return f"{kind.__module__}.{kind.__qualname__} {code}"


def _is_state(owner: Any, name: str) -> bool:
    """Attributes of MONAI's transforms and readers that using them changes."""
    if isinstance(owner, Transform) and name == "_tracing":
        return True
    if isinstance(owner, Randomizable) and name in ("R", "_do_transform"):
        return True
    return isinstance(owner, ImageReader) and name == "filenames"
