"""Runs a printed command ``[NAME=VALUE] python -m MODULE …`` in a fork of this process.

The fork has torch, MONAI and this package imported already: on a busy machine that is most of the
time of a short command. Nothing else of one command reaches the next.
"""

from __future__ import annotations

import importlib
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

_PRELOADED = (
    *("torch", "monai.bundle", "monai.apps", "monai.engines", "monai.handlers"),
    *("nibabel", "ignite.engine", "perforated_monai", "perforated_monai.export.new_bundle"),
    *("perforated_monai.commands.main", "perforated_monai.inference.segment"),
)


def run_command(command: str, folder: Path, seconds: int) -> tuple[int, str, str]:
    """Exit code, standard output and standard error.

    Raises:
        subprocess.TimeoutExpired: after ``seconds``; the fork is killed.
    """
    for name in _PRELOADED:
        importlib.import_module(name)
    out, err = folder / ".stdout", folder / ".stderr"
    pid = os.fork()
    if pid == 0:
        _child(command, folder, out, err)
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code, out.read_text(errors="replace"), err.read_text(errors="replace")
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise subprocess.TimeoutExpired(command, seconds)
        time.sleep(0.2)


def _child(command: str, folder: Path, out: Path, err: Path) -> None:
    """Become the command; never returns."""
    code = 1
    try:
        for stream, file in ((1, out), (2, err)):
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, stream)
        os.chdir(folder)
        words = shlex.split(os.path.expandvars(command))
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            os.environ[name] = value
            if name == "PYTHONPATH":
                sys.path[:0] = [str(Path(p).resolve()) for p in value.split(":") if p]
        module = words[2]
        sys.path.insert(0, str(folder))
        sys.argv = [module, *words[3:]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        hook = sys.excepthook
        if hook is sys.__excepthook__:
            traceback.print_exc()
        else:  # the package says an error's cause last
            hook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
