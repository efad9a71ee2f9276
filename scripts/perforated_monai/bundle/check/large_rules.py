"""The rule on files of a bundle that lie elsewhere (`large_files.yml`)."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from ...errors import UserError
from ...rules import WARNING, Broken, rule
from ..large_files import list_of, read_large_files
from ..portable_names import unsafe
from .files import BundleFiles


def elsewhere(bundle: BundleFiles) -> set[str]:
    """Paths that the bundle's list names; empty where it cannot be read."""
    try:
        return {entry.path for entry in read_large_files(bundle.root)}
    except UserError:
        return set()


@rule("large-files", "must name files inside the bundle, with address and hash")
def large_files(bundle: BundleFiles) -> Iterator[Broken]:
    file = list_of(bundle.root)
    if file is None:
        return
    try:
        entries = read_large_files(bundle.root)
    except UserError as error:
        yield Broken(str(error).partition("; got ")[2].rstrip("."), "Correct it", file.name)
        return
    for entry in entries:
        if reason := unsafe(entry.path):
            yield Broken(f"{entry.path!r}: {reason}", "Correct the path", file.name)
            continue
        if urlsplit(entry.url).scheme not in ("http", "https"):
            yield Broken(f"{entry.url!r} for {entry.path}", "Name an https address", file.name)
        if not entry.hash_val:
            value = f"no hash of {entry.path}"
            yield Broken(value, "Add hash_val and hash_type", file.name, WARNING)
        there = bundle.root / entry.path
        if there.is_file() and not there.is_symlink() and not entry.matches(there):
            value = f"another {entry.hash_type} than {entry.hash_val[:16]}…"
            yield Broken(value, "Fetch the file again", entry.path)
