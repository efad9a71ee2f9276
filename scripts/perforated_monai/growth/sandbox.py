"""A cage for library calls: no debugger, no key press, no exit, no print, no change of folder."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import pdb
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class TrackerError(RuntimeError):
    """perforatedai asked for a debugger, a key press or the exit; the run stops instead."""


@contextlib.contextmanager
def guard(verbose: bool) -> Iterator[None]:
    """Run a call of the library without debugger, key press, exit, print or stdin."""
    saved = (pdb.set_trace, builtins.input, sys.stdin)
    said = io.StringIO()

    def refuse(*_: Any, **__: Any) -> Any:
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        msg = "perforatedai stopped for its user. Its last words: " + " | ".join(lines[-6:])
        raise TrackerError(msg)

    pdb.set_trace = refuse  # type: ignore[assignment]
    builtins.input = refuse
    sys.stdin = io.StringIO()
    try:
        with contextlib.nullcontext() if verbose else contextlib.redirect_stdout(said):
            yield
    except SystemExit:
        refuse()
    finally:
        pdb.set_trace, builtins.input, sys.stdin = saved


@contextlib.contextmanager
def inside(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def keep_matplotlib_backend() -> Iterator[None]:
    """The library forces the Agg backend at import; a notebook's own choice comes back."""
    try:
        import matplotlib
    except ImportError:
        yield
        return
    before = dict.get(matplotlib.rcParams, "backend")
    yield
    dict.__setitem__(matplotlib.rcParams, "backend", before)
