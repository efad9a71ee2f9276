"""Weights: the pickle inside ``*.pt`` read opcode by opcode, then loaded as tensors only."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from ...errors import UserError
from ...networks.weights import read_weights
from ...rules import Broken, rule
from .walk import Unpacked

MOST_ENTRIES = 100_000
MOST_PICKLE = 32 * 2**20
# What torch.save writes for a dict of tensors, and nothing that could build another object.
_OPCODES = {
    *("PROTO", "FRAME", "MARK", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "REDUCE", "BUILD"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("SETITEM", "SETITEMS", "APPEND", "APPENDS", "GLOBAL", "BINPERSID"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
}
_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
_ENTRIES = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id)"
)


@rule("weights-file", "must hold tensors and nothing else")
def weights_file(bundle: Unpacked) -> Iterator[Broken]:
    for path in bundle.sizes:
        if path.lower().endswith(".pt"):
            yield from (Broken(p, "Refused", path) for p in problems(bundle.root / path))


def problems(file: Path) -> list[str]:
    """What is wrong with a file of weights; the tensors are read last, when nothing else is."""
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = list(_container(archive, file.stat().st_size))
            wrong = wrong or list(_pickle(archive))
        return wrong or list(_tensors(file))
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, EOFError) as error:
        return [f"no zip of torch.save: {' '.join(str(error).split())[:120]}"]


def pickled_globals(data: bytes) -> list[str]:
    """Names that a pickle would import and opcodes that tensors do not need; nothing runs."""
    wrong = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            wrong.append(f"the pickle opcode {opcode.name} ({str(argument)[:60]})")
        elif opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
            wrong.append(f"a pickle that imports {str(argument).replace(' ', '.')[:80]}")
    return list(dict.fromkeys(wrong))[:5]


def _container(archive: zipfile.ZipFile, size: int) -> Iterator[str]:
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES or sum(entry.file_size for entry in entries) > size:
        yield "more data than the file has bytes"
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names) or len({name.split("/")[0] for name in names}) != 1:
        yield "entries of one name, or of several folders"
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            yield f"{entry.filename} packed or encrypted"
        elif not _ENTRIES.fullmatch(entry.filename):
            yield f"{entry.filename}, which is no tensor"


def _pickle(archive: zipfile.ZipFile) -> Iterator[str]:
    entry = next(e for e in archive.infolist() if e.filename.endswith("/data.pkl"))
    if entry.file_size > MOST_PICKLE:
        yield f"a pickle of {entry.file_size:,} bytes"
    else:
        yield from pickled_globals(archive.read(entry))


def _tensors(file: Path) -> Iterator[str]:
    try:
        state = read_weights(file)
        tensors = {str(name): tensor for name, tensor in dict.items(state)}
    except (UserError, TypeError, RuntimeError) as error:
        yield " ".join(str(error).replace(str(file), "it").split())[:200]
        return
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            yield f"{name}, which is no plain tensor"
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            yield f"{name} of shape {tuple(tensor.shape)}, more than its bytes"
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            yield f"{name} with NaN or Inf"
