"""Augmented crops kept on disk: what (seed, epoch, index) gives is made once for all who ask.

All arms of a study, and all workers and restarts of a run, see one data stream (``dataset.py``). A
kept crop saves the second of them reading the volume and augmenting it. Beside ``cache.py``, which
keeps the part of a case before its first random transform, these files come and go by the thousand:
so they are small, are read in one piece, and have a bound.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from .._version import __version__
from ..errors import UserError
from ..files import sha256
from .cache import stamp, transform_hash

MAGIC = b"perforated-monai crop 1\n"
DTYPES = ("float32", "float16")

_ALIGNED = 64  # bytes; tensors are read in place
_SUFFIX = ".crop"


class KeptCrops:
    """Items of a data set in a folder, one file each; processes may share it, and delete it.

    A file's name is the sha256 of all that made it: the content of the case's files, transforms,
    seed, epoch and index, the versions of the libraries and of this package, and the kind of
    processor. So what was changed is not found, and never served. A file that is damaged is
    made again. Nothing is half-written under a final name.

    Args:
        folder: made when missing.
        transform: all transforms of the data set.
        seed: run seed.
        gigabytes: bound of the folder; above it the files that nobody has read for longest go.
        dtype: of the images on disk. ``float32`` gives back what was made, bit for bit.
            ``float16`` halves the files; it rounds to 11 bits, 0.05 % of a value, also in the
            run that makes the crop, so that runs with and without the files stay equal.

    Raises:
        UserError: an unknown dtype, no positive bound, a folder that cannot be made, or a
            transform whose settings have no stable description.
    """

    def __init__(
        self,
        folder: str | Path,
        transform: Compose,
        seed: int,
        gigabytes: float = 4.0,
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            msg = f"crops_dtype must be one of {', '.join(DTYPES)}; got {dtype!r}."
            raise UserError(msg)
        if not gigabytes > 0:
            msg = f"crops_gb must be a number above 0; got {gigabytes!r}."
            raise UserError(msg)
        machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        self.key = f"{__version__} {machine} {dtype} {seed} {transform_hash(transform)}"
        self.folder, self.half = Path(folder).expanduser(), dtype == "float16"
        self.most = int(gigabytes * 1e9)
        self._written, self._writable = 0, True
        self._stamps: dict[int, str] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"crops_dir {folder} cannot be made ({error.strerror}): choose another or none."
            raise UserError(msg) from error

    def get(
        self, case: dict[str, Any], epoch: int, index: int, make: Callable[[], Any]
    ) -> dict[str, Any]:
        """The item of a case: from its file, or from ``make``, which is called at most once.

        Args:
            case: its entry of the datalist; values that are paths count by their content, which
                is hashed once a process.
            epoch, index: with the seed they decide what the random transforms draw.

        Raises:
            UserError: for an item that is no dict of plain tensors and plain values.
        """
        if index not in self._stamps:
            self._stamps[index] = stamp(case)
        name = sha256(f"{self.key} {epoch} {index} {self._stamps[index]}".encode())
        file = self.folder / f"epoch{epoch}" / f"{name}{_SUFFIX}"
        data, reason = _read(file)
        if reason:
            print(f"crops: {file.name} {reason}: made again")
        if data is not None:
            return _decode(data)
        data = _encode(make(), self.half)
        self._write(file, data)
        return _decode(data)

    def _write(self, file: Path, data: bytearray) -> None:
        if not self._writable:
            return
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            file.parent.mkdir(exist_ok=True)
            # Not synced: after a crash of the machine the checksum finds what is not whole.
            temporary.write_bytes(data)
            temporary.replace(file)
        except OSError as error:  # training does not need the crops
            self._writable = False
            temporary.unlink(missing_ok=True) if file.parent.is_dir() else None
            print(f"crops: cannot write {file.parent} ({error.strerror}). Going on without.")
            return
        self._written += len(data)
        if self._written > min(self.most // 20, 1 << 26):
            self._written = 0
            self._shrink()

    def _shrink(self) -> None:
        """Above the bound, remove the files that nobody has read for longest, down to 90 %."""
        from filelock import FileLock, Timeout  # evaluation and inference need no crops

        try:
            with FileLock(self.folder / ".lock", timeout=0):
                files = sorted(_sizes(self.folder))
                total = sum(size for _, size, _ in files)
                if total <= 0.95 * self.most:
                    return
                for _, size, path in files:
                    if total <= 0.9 * self.most:
                        return
                    Path(path).unlink(missing_ok=True)
                    total -= size
        except Timeout:  # another process is at it
            return


def _sizes(folder: Path) -> list[tuple[float, int, str]]:
    """Time of the last reading, bytes and path of every file."""
    found = []
    for pattern in (f"epoch*/*{_SUFFIX}", "epoch*/.*.tmp"):  # a killed process leaves the second
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                found.append((state.st_mtime, state.st_size, str(path)))
    return found


# --- one file: MAGIC, checksum of the rest, length of the description, description, tensors


def _read(file: Path) -> tuple[bytearray | None, str]:
    """Content of a whole file, or why there is none; nothing is said of a file that is absent."""
    try:
        with file.open("rb") as handle:
            data = bytearray(os.fstat(handle.fileno()).st_size)
            handle.readinto(data)
            os.utime(handle.fileno())  # read just now
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    start = len(MAGIC) + 8
    check = data[len(MAGIC) : start]
    if not data.startswith(MAGIC) or f"{zlib.crc32(memoryview(data)[start:]):08x}" != check.decode(
        "ascii", "replace"
    ):
        return None, "is damaged"
    return data, ""


def _encode(item: Any, half: bool) -> bytearray:
    """An item as the content of a file."""
    if not isinstance(item, dict):
        msg = f"crops_dir keeps a dict of tensors a case; got {type(item).__name__}. Leave it out."
        raise UserError(msg)
    entries: list[dict[str, Any]] = []
    body = bytearray()
    for key, value in item.items():
        entry: dict[str, Any] = {"key": key}
        if type(value) is torch.Tensor:
            stored = _stored(value.detach().cpu().contiguous(), half)
            entry |= {"dtype": _name(value.dtype), "shape": list(value.shape)}
            entry |= {"stored": _name(stored.dtype), "offset": len(body)}
            body += stored.flatten().view(torch.uint8).numpy().tobytes()
            body += bytes(-len(body) % _ALIGNED)
        elif isinstance(value, (str, int, float, bool, type(None))) and isinstance(key, str):
            entry["value"] = str(value) if isinstance(value, str) else value
        else:
            what = "MetaTensor" if isinstance(value, MetaTensor) else type(value).__name__
            msg = (
                f"crops_dir keeps plain tensors, text and numbers; {key} is a {what}. Put "
                "EnsureTyped with track_meta false before the random transforms, or leave "
                "crops_dir out."
            )
            raise UserError(msg)
        entries.append(entry)
    head = json.dumps(entries).encode()
    start = len(MAGIC) + 16
    head += b" " * (-(start + len(head)) % _ALIGNED)
    rest = f"{len(head):08x}".encode() + head + body
    return bytearray(MAGIC + f"{zlib.crc32(rest):08x}".encode() + rest)


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """A tensor as it is written: in fewer bytes where that is exact, or asked for."""
    if tensor.dtype != torch.float32 or not tensor.numel():
        return tensor
    small = tensor.clamp(0, 255).to(torch.uint8)
    if torch.equal(small.float().view(torch.int32), tensor.view(torch.int32)):  # -0.0 is not 0
        return small
    return tensor.half() if half else tensor


def _decode(data: bytearray) -> dict[str, Any]:
    start = len(MAGIC) + 16
    end = start + int(data[start - 8 : start], 16)
    item: dict[str, Any] = {}
    for entry in json.loads(data[start:end]):
        if "shape" not in entry:
            item[entry["key"]] = entry["value"]
            continue
        count = 1
        for n in entry["shape"]:
            count *= n
        dtype = getattr(torch, entry["stored"])
        if count:
            place = end + entry["offset"]
            flat = torch.frombuffer(data, dtype=dtype, count=count, offset=place)
        else:
            flat = torch.empty(0, dtype=dtype)
        item[entry["key"]] = flat.reshape(entry["shape"]).to(getattr(torch, entry["dtype"]))
    return item


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
