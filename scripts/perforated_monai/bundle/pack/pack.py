"""``pack_bundle``: check, choose, stamp, record, write, verify."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ...errors import UserError
from ...files import atomic, hash_of, refuse_foreign
from ...rules import ERROR
from ..check.files import BundleFiles, read_bundle
from ..check.run import check_files
from ..large_files import NAMES, LargeFile, large_files_text, read_large_files
from ..layout import package_files
from ..record import RECORD, record_text
from ..verify.verify import verify
from .contents import CASES, select
from .requirements import stamped
from .zip_writer import write_zip

METADATA = "configs/metadata.json"
LARGE = 25_000_000  # bytes; the zoo keeps what is larger outside


@dataclass(frozen=True)
class Packed:
    """A zip that was written, and what is worth knowing about it."""

    file: Path
    files: int
    size: int
    sha256: str
    notes: list[str]


def pack_bundle(
    bundle: str | Path,
    out: str | Path,
    url_base: str = "",
    formats: Sequence[str] = (),
    cases: bool = False,
) -> Packed:
    """Write a bundle and this package into one zip that ``verify`` accepts; the bytes repeat.

    Args:
        bundle: bundle folder.
        out: the zip to write; whole or absent.
        url_base: address under which files above 25 MB will lie; they go to `large_files.yml`.
        formats: of ts, pt2, onnx: other forms of the network to pack beside `model.pt`.
        cases: also pack `docs/cases.csv`, which names cases.

    Raises:
        UserError: a bundle with errors, a link or unwritable name in it, or a wrong address.
    """
    out = Path(out).expanduser()
    if out.suffix.lower() != ".zip" or out.is_dir():
        msg = f"the packed bundle must be a .zip file; got {out}."
        raise UserError(msg)
    refuse_foreign(out, "packed bundle", [f"/{RECORD}"])
    checked = _whole(bundle)
    chosen = select(checked.root, formats, cases)
    notes = [f"left out: {', '.join(chosen.left_out)}"] if chosen.left_out else []
    if CASES[0] in chosen.left_out:
        notes.append(f"{CASES[0]} names cases, so it is left out; --cases packs it")
    content: dict[str, bytes | Path] = {**chosen.files, **package_files()}
    content[METADATA] = _metadata(checked)
    notes += _move_large_files(checked.root, content, url_base)
    top, version = checked.root.name, str(checked.metadata["version"])
    content[RECORD] = record_text(content, top, version)
    with atomic(out) as temporary:
        write_zip(temporary, content, top)
        notes += _verified(temporary, out)
    return Packed(out, len(content), out.stat().st_size, hash_of(out), notes)


def _whole(folder: str | Path) -> BundleFiles:
    """The bundle, free of errors."""
    bundle = read_bundle(folder)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", bundle.root.name, re.ASCII):
        msg = f"{bundle.root} must have a name of letters, digits, _, - and dots. Rename it."
        raise UserError(msg)
    errors = [finding for finding in check_files(bundle) if finding.severity == ERROR]
    if errors:
        more = f" ({len(errors) - 1} more: run check)" if len(errors) > 1 else ""
        msg = f"{errors[0].text(bundle.root)}{more}"
        raise UserError(msg)
    return bundle


def _metadata(bundle: BundleFiles) -> bytes:
    """The bundle's metadata with the needed packages; its own bytes where nothing changes."""
    file = bundle.file_of("inference")
    made = stamped(bundle.metadata, bundle.configs.get(file, {}), not file.endswith(".json"))
    if made == bundle.metadata:
        return (bundle.root / METADATA).read_bytes()
    return (json.dumps(made, indent=4, ensure_ascii=False) + "\n").encode()


def _move_large_files(root: Path, content: dict[str, Any], url_base: str) -> list[str]:
    """Take files above 25 MB out of the content where they have an address; what to say of it."""
    if url_base and urlsplit(url_base).scheme not in ("http", "https"):
        msg = f"--url-base must begin with https:// or http://; got {url_base!r}."
        raise UserError(msg)
    listed = {entry.path: entry for entry in read_large_files(root)}
    notes = []
    for path, item in list(content.items()):
        size = item.stat().st_size if isinstance(item, Path) else len(item)
        before = listed.pop(path, None)
        if size <= LARGE:
            continue
        if not url_base and before is None:
            notes.append(f"{path} has {size / 1e6:.1f} MB and is in the zip: MONAI's zoo takes no "
                         "file above 25 MB, give --url-base")  # fmt: skip
            continue
        url = f"{url_base.rstrip('/')}/{quote(path)}" if url_base or not before else before.url
        listed[path] = LargeFile(path, url, hash_of(item), "sha256")
        del content[path]
        notes.append(f"{path} ({size / 1e6:.1f} MB) is not in the zip: put it at {url}")
    for name in NAMES:
        content.pop(name, None)
    if listed:
        content[NAMES[0]] = large_files_text(listed.values()).encode()
    return notes


def _verified(file: Path, out: Path) -> list[str]:
    """What `verify` would ask --trust for; what it always refuses is refused here."""
    verdict = verify(file)
    if verdict.broken:
        msg = f"{out} was not written, for verify would refuse it: {verdict.findings[0].text()}"
        raise UserError(msg)
    return [f"verify will ask for --trust: {finding.text()}" for finding in verdict.foreign]
