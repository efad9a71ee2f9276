"""While an overlay trains, its bundle is watched: files that changed are named at the end."""

from __future__ import annotations

import logging
from pathlib import Path

from ...errors import UserError
from ..overrides import guard_command_line

_Files = dict[str, tuple[int, int]]
_watched: tuple[Path, Path, _Files] | None = None


def watch_bundle(bundle_root: str | Path, output_dir: str | Path) -> None:
    """Last entry of ``initialize``: remember the bundle's files, and check the command line.

    Args:
        bundle_root: folder of the bundle.
        output_dir: run folder, which may lie inside the bundle.

    Raises:
        UserError: for a mistyped override, a ``bundle_root`` that is not there, or a log file that
            is written inside the bundle.
    """
    global _watched
    guard_command_line()
    root, out = Path(bundle_root).resolve(), Path(output_dir).resolve()
    if not root.is_dir():
        msg = f"bundle_root must be the bundle's folder; {bundle_root} is none. Give --bundle_root."
        raise UserError(msg)
    if out == root or root.is_relative_to(out):
        msg = f"output_dir must not hold the bundle; got {output_dir}. Choose another folder."
        raise UserError(msg)
    for handler in logging.getLogger().handlers:
        file = Path(getattr(handler, "baseFilename", "/"))
        if file.is_relative_to(root) and not file.is_relative_to(out):
            name = file.relative_to(root)
            msg = f"logging.conf writes {name} inside the bundle: add --logging_file False."
            raise UserError(msg)
    _watched = root, out, _files(root, out)


def bundle_unchanged() -> None:
    """Last entry of ``finalize``.

    Raises:
        UserError: naming files of the bundle that were changed, added or removed meanwhile.
    """
    global _watched
    if _watched is None:
        return
    root, out, before = _watched
    _watched = None
    after = _files(root, out)
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    if changed:
        msg = (
            f"Training changed {len(changed)} files of the bundle ({', '.join(changed[:5])}); the "
            "run itself is whole. Something in it writes there: redirect it in the overlay."
        )
        raise UserError(msg)


def _files(root: Path, out: Path) -> _Files:
    """Size and time of every file below ``root`` but the run's own and Python's caches."""
    files: _Files = {}
    for path in root.rglob("*"):
        own = path.is_relative_to(out) or "__pycache__" in path.parts
        if not own and path.is_file():
            stat = path.stat()
            files[str(path.relative_to(root))] = (stat.st_size, stat.st_mtime_ns)
    return files
