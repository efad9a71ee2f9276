"""A cache on disk for transformed cases, keyed by the files' content and the transforms."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.transforms.utils import reset_ops_id

from ..errors import UserError
from ..files import write_bytes
from .fingerprint import describe, transform_hash

MAGIC = b"perforated-monai cache 1\n"


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
        key = hashlib.sha256(f"{self.key} {_stamp(case)}".encode()).hexdigest()
        file = self.folder / _name(case)
        found, reason = _read(file, key)
        if not reason:
            return found
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
        head = MAGIC + f"{key} {hashlib.sha256(data).hexdigest()}\n".encode()
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
    return f"{plain}-{hashlib.sha256(paths.encode()).hexdigest()[:8]}.pt"


def _label(case: dict[str, Any]) -> str:
    return str(case.get("case") or Path(str(next(iter(case.values()), "case"))).name)


def _stamp(case: dict[str, Any]) -> str:
    """Content of a case's files, value of the rest.

    The whole file is hashed: a time stamp may survive a replacement (`cp -p`, archives), and
    hashing costs a fraction of unpacking.
    """
    parts = []
    for key, value in sorted(case.items()):
        if isinstance(value, (str, Path)) and Path(value).is_file():
            parts.append(f"{key} {_file_digest(Path(value))}")
        else:
            parts.append(f"{key} {describe(value)}")
    return "\n".join(parts)


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
    if hashlib.sha256(body).hexdigest() != digest:
        return None, "is damaged"
    try:
        item = _decode(torch.load(io.BytesIO(body), weights_only=True))
        return reset_ops_id(item), ""  # else inverting would look for this process's objects
    except Exception as error:  # whole but not ours: torch raises by what it meets
        return None, f"is damaged ({type(error).__name__})"


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
