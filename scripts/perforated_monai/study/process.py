"""Start a trial's process so that it does not outlive the runner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A runner that is killed cannot end its children: the kernel sends them SIGTERM (prctl(2),
# PR_SET_PDEATHSIG; kept over execve). They end at their last whole epoch.
_FOLLOW = """
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 15)
except (OSError, AttributeError, TypeError):
    pass
os.execv(sys.argv[1], sys.argv[1:])
"""


def start(words: list[str], log: Path, workers: int) -> subprocess.Popen:
    """Start a command with its output appended to ``log``.

    Args:
        words: the command; its first word is an absolute path.
        log: text file.
        workers: trials at a time on this machine; they share the cores unless ``OMP_NUM_THREADS``
            is set already.
    """
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH", "")) if p)
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": path}
    with log.open("a") as out:
        return subprocess.Popen(
            [sys.executable, "-c", _FOLLOW, *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def last_line(log: Path, code: int) -> str:
    """The line that says why a process failed, from a log that ends with a traceback."""
    if code < 0:
        return f"ended by signal {-code}"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    for line in reversed(lines):
        text = line.strip()
        if text and not text.startswith(("~", "^", "File ")):
            return text[:300].replace(str(Path.cwd()), ".")
    return f"exit code {code} without a word"
