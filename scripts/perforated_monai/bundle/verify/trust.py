"""May a command run what a bundle says? One judgement before anything of it is executed.

It is that of ``verify``, for the configs that the command reads and for every file that Python
could import: a bundle's folder is put on the path. Who made a bundle cannot be known, and a record
can be made by anybody, so neither stands in for the judgement.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.reading import ENDINGS
from ...errors import UserError
from ...files import hash_of
from ...networks.makers import OWN
from ...rules import Finding, run
from ..layout import PACKAGE
from ..record import read_record
from . import walk
from .code_rules import CODE_RULES
from .logging_conf import logging_conf
from .texts import texts

INFERENCE = ("inference",)
ALL_WORKFLOWS = ("train", "evaluate", "inference")
CODE = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib")
MOST_ENTRIES = 200_000  # of a folder that also holds data and runs
_RULES = (walk.plain_files, texts, logging_conf, *CODE_RULES)
_MOST = 30  # findings of one rule


@dataclass(frozen=True)
class Trusted:
    """Why a bundle may run.

    Attributes:
        name: of its folder.
        reason: one phrase.
        findings: what the user took upon himself with ``--trust``; empty for any other reason.
    """

    name: str
    reason: str
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        """One line for the user."""
        return f"Trusted: {self.name} {self.reason}."


def trusted(
    folder: str | Path, workflows: Sequence[str], trust: bool, config: str | Path = ""
) -> Trusted:
    """Judge a bundle before a command runs it.

    Args:
        folder: the bundle's.
        workflows: names of the configs that the command reads, without ending.
        trust: go on with what is found.
        config: one more config file, wherever it lies.

    Raises:
        UserError: for a bundle that would run something outside the allow-list, unless it is to be
            trusted; names the finding and ``--trust``.
    """
    root = Path(folder).expanduser().resolve()
    name = root.name
    bundle = _files(root, workflows, config)
    if bundle.sizes and not bundle.odd and _is_shipped(root, bundle.sizes):
        return Trusted(name, "is one of this project's bundles, unchanged")
    found = run(_RULES, "", bundle, most=_MOST, foreign=True)
    # A config may lie anywhere in the bundle; what it is called runs nothing.
    kinds = walk.file_kinds.name
    found = [f for f in found if f.rule != kinds or f.file.lower().endswith(CODE)]
    if found and not trust:
        more = f" ({len(found)} findings)" if len(found) > 1 else ""
        msg = (
            f"{name} would run what verify refuses: {found[0].text()}{more} "
            "Go on with --trust once you have read it, or see all of it by `verify`."
        )
        raise UserError(msg)
    if found:
        first = found[0].text().rstrip(".")
        reason = f"as you said, with {len(found)} findings of verify, the first: {first}"
        return Trusted(name, reason, tuple(found))
    if packed := _packed_by(root):
        return Trusted(name, f"is as {packed} packed it, and runs only what verify allows")
    return Trusted(name, "runs only what verify allows")


def _files(root: Path, workflows: Iterable[str], config: str | Path) -> walk.Unpacked:
    """What a command reads as configs, and what could be imported."""
    bundle = walk.Unpacked(root)
    read = {f"configs/{name}{ending}" for name in workflows for ending in ENDINGS}
    read |= {"configs/metadata.json", "configs/logging.conf"}
    if config:
        read.add(_inside(root, Path(config)))
    for short in sorted(read):
        path = root / short
        if path.is_symlink():
            bundle.odd[short] = "a link"
        elif path.is_file():
            bundle.sizes[short] = path.stat().st_size
        elif path.exists() and not path.is_dir():
            bundle.odd[short] = "a device, pipe or socket"
    for path in _importable(root):
        short = path.relative_to(root).as_posix()
        if path.is_symlink():
            bundle.odd[short] = "a link to code"
        else:
            bundle.sizes[short] = path.lstat().st_size
    return bundle


def _inside(root: Path, config: Path) -> str:
    path = config.expanduser().resolve()
    if not path.is_relative_to(root):
        msg = f"{config} must be a config of the bundle {root.name}; it lies elsewhere. Move it."
        raise UserError(msg)
    return path.relative_to(root).as_posix()


def _importable(root: Path) -> Iterator[Path]:
    """Files that an import could find, and links to folders that hold some."""
    count = 0
    for folder, folders, files in os.walk(root):
        count += len(folders) + len(files)
        if count > MOST_ENTRIES:
            msg = f"{root} must hold at most {MOST_ENTRIES:,} files. Move data out of the bundle."
            raise UserError(msg)
        own = Path(folder).relative_to(root).parts[:1] == (PACKAGE,)
        for name in files:
            path = Path(folder) / name
            # The package in a packed bundle is compared whole, and what Python writes beside it
            # is made again from its sources.
            if own or path.suffix.lower() in CODE:
                yield path
        folders[:] = [n for n in folders if n not in ("__pycache__", ".git")]
        if Path(folder) == root and OWN in folders and not (root / OWN).is_symlink():
            folders.remove(OWN)  # run only where a config names it, which is found there
        yield from (p for n in folders if (p := Path(folder) / n).is_symlink() and _has_code(p))


def _has_code(folder: Path) -> bool:
    try:
        return any(p.suffix.lower() in CODE for p in folder.iterdir())
    except OSError:
        return False


def _is_shipped(root: Path, files: Iterable[str]) -> bool:
    """Whether all that was to be judged is as it stands in this project's own checkout."""
    own = Path(__file__).resolve().parents[4] / "bundles" / root.name
    return (
        root != own
        and own.is_dir()
        and all(
            (own / short).is_file() and hash_of(own / short) == hash_of(root / short)
            for short in files
        )
    )


def _packed_by(root: Path) -> str:
    """Who packed a bundle, where every file is as its record says; or ""."""
    try:
        record = read_record(root)
        if record is None:
            return ""
        same = all(hash_of(root / path) == digest for path, (_, digest) in record.files.items())
    except (OSError, UserError):
        return ""
    return record.written_by[:60] if same and record.written_by.isprintable() else ""
