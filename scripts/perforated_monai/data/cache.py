"""A cache on disk for transformed cases, keyed by the files' content and the transforms.

It is ours because ``PersistentDataset`` of MONAI 1.6.1 cannot do it without loading pickles that
may run code. With ``weights_only=True`` and ``track_meta=True`` it refuses its own entries, for the
affines in a case's history are NumPy arrays, and transforms the case again each time; without
``track_meta`` the grid of a case is lost. Its key holds the paths of a case and not their content,
and a cut or damaged entry ends the training with an error (EOFError, OSError, RuntimeError).
Here an entry is tensors and plain values under a checksum, and one that is stale or damaged is made
again.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import types
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader, MetaTensor
from monai.transforms import Compose, Randomizable, Transform
from monai.transforms.utils import reset_ops_id

from ..errors import UserError
from ..files import hash_of, sha256, write_bytes

MAGIC = b"perforated-monai cache 1\n"

# Their version is in the hash, the code of their functions is not.
_LIBRARIES = {"monai", "torch", "numpy", "builtins", "abc", "typing", "collections", "functools"}


class DiskCache:
    """Transformed cases in a folder, one file each; several processes may share it.

    A file holds its key, a checksum and the case. The key is the sha256 of the case's files and of
    the transforms (`transform_hash`): what was changed, or is damaged, is made again with one line
    and never served. Transforms have a folder each, so that two trainings do not evict each other.

    Args:
        folder: made when missing; nothing else should lie in it.
        transform: deterministic transforms.

    Raises:
        UserError: a transform whose settings have no stable description, or a folder that cannot be
            made.
    """

    def __init__(self, folder: str | Path, transform: Compose) -> None:
        self.key = transform_hash(transform)
        self.folder = Path(folder).expanduser() / self.key[:16]
        self._writable = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"cache_dir {folder} cannot be made ({error.strerror}): choose another or none."
            raise UserError(msg) from error

    def get(self, case: dict[str, Any], make: Callable[[], Any]) -> Any:
        """The transformed case: from its file or, when that is not of this very case, from `make`.

        Args:
            case: its entry of the datalist; values that are paths of files count by their content.
            make: transforms it; called at most once.
        """
        key = sha256(f"{self.key} {stamp(case)}".encode())
        file = self.folder / _name(case)
        kept, reason = _read(file, key)
        if not reason:
            return kept
        if reason != "absent":
            print(f"cache: {_label(case)} {reason}: made again")
        item = make()
        self._write(file, key, item)
        return item

    def _write(self, file: Path, key: str, item: Any) -> None:
        if not self._writable:
            return
        buffer = io.BytesIO()
        torch.save(_encode(item), buffer)
        data = buffer.getvalue()
        head = MAGIC + f"{key} {sha256(data)}\n".encode()
        try:
            write_bytes(file, head + data)
        except UserError as error:  # training does not need the cache
            self._writable = False
            print(f"cache: {error} Going on without.")


def _name(case: dict[str, Any]) -> str:
    """File name of a case: readable, and different for equal ids in two folders."""
    text = _label(case)
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in text)[-80:]
    paths = " ".join(f"{key}={value}" for key, value in sorted(case.items()))
    return f"{plain}-{sha256(paths.encode())[:8]}.pt"


def _label(case: dict[str, Any]) -> str:
    return str(case.get("case") or Path(str(next(iter(case.values()), "case"))).name)


def stamp(case: dict[str, Any]) -> str:
    """Content of a case's files, value of the rest.

    The whole file is hashed: a time stamp may survive a replacement (`cp -p`, archives), and
    hashing costs a fraction of unpacking.
    """
    parts = []
    for key, value in sorted(case.items()):
        if isinstance(value, (str, Path)) and Path(value).is_file():
            parts.append(f"{key} {hash_of(value)}")
        else:
            parts.append(f"{key} {describe(value)}")
    return "\n".join(parts)


def _read(file: Path, key: str) -> tuple[Any, str]:
    """The case of a file, or why there is none."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None, "absent"
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    head, body = data[: len(MAGIC) + 130], data[len(MAGIC) + 130 :]
    if not head.startswith(MAGIC) or head[-1:] != b"\n":
        return None, "is damaged"
    known, _, digest = head[len(MAGIC) : -1].decode("ascii", "replace").partition(" ")
    if known != key:
        return None, "was changed"
    if sha256(body) != digest:
        return None, "is damaged"
    try:
        item = _decode(torch.load(io.BytesIO(body), weights_only=True))
        return reset_ops_id(item), ""  # else inverting would look for this process's objects
    except Exception as error:  # whole but not ours: torch raises by what it meets
        return None, f"is damaged ({type(error).__name__})"


# --- what transforms do, as text


def transform_hash(transform: Any) -> str:
    """sha256 over the classes, settings and functions of transforms, and the library versions.

    Raises:
        UserError: for a setting without a stable description.
    """
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("monai", "torch", "numpy")
    ]
    text = "\n".join([*versions, describe(transform)])
    return sha256(text.encode())


def describe(value: Any, inside: tuple[int, ...] = ()) -> str:
    """A text that changes with what the value does, and with nothing else."""
    if id(value) in inside:
        return "<itself>"
    inside = (*inside, id(value))
    plain = (bool, int, float, complex, str, bytes, types.EllipsisType)
    if value is None or isinstance(value, plain):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, (np.ndarray, torch.Tensor, np.generic)):
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        digest = sha256(np.ascontiguousarray(array).tobytes())
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


# --- what a case is made of, as tensors and plain values, which `weights_only` loads


def _encode(value: Any) -> Any:
    if isinstance(value, MetaTensor):
        rest = [value.meta, value.applied_operations, value.pending_operations]
        return ("meta_tensor", value.as_tensor().detach().clone(), _encode(rest))
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return ("array", torch.from_numpy(np.ascontiguousarray(value)).clone(), list(value.shape))
    if isinstance(value, np.generic):
        return ("scalar", value.dtype.str, value.item())
    if isinstance(value, dict):
        return ("dict", [(_encode(k), _encode(v)) for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        return ("tuple" if isinstance(value, tuple) else "list", [_encode(v) for v in value])
    if isinstance(value, Enum):
        return _encode(value.value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, torch.dtype):
        return ("dtype", str(value).removeprefix("torch."))
    if isinstance(value, torch.device):
        return ("device", str(value))
    msg = f"cache_dir keeps tensors and plain values; got {type(value).__name__}. Leave it out."
    raise UserError(msg)


def _decode(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    kind, *rest = value
    if kind == "meta_tensor":
        meta, applied, pending = _decode(rest[1])
        tensor = MetaTensor(rest[0], meta=meta, applied_operations=applied)
        tensor.pending_operations.extend(pending)
        return tensor
    return {
        "array": lambda: rest[0].numpy().reshape(rest[1]),
        "scalar": lambda: np.dtype(rest[0]).type(rest[1]),
        "dict": lambda: {_decode(k): _decode(v) for k, v in rest[0]},
        "list": lambda: [_decode(v) for v in rest[0]],
        "tuple": lambda: tuple(_decode(v) for v in rest[0]),
        "dtype": lambda: getattr(torch, rest[0]),
        "device": lambda: torch.device(rest[0]),
    }[kind]()
