"""What benchmarks of whole commands share: scans in folders, and a command's time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Seconds on the wall, seconds of all cores, and the peak of one process in MiB."""

    wall: float
    cpu: float
    peak_mib: float


def link_scans(scans: Path, folder: Path, count: int) -> Path:
    """A folder with ``count`` scans; where there are fewer, they come again under other names."""
    files = sorted(scans.glob("*.nii.gz"))
    folder.mkdir()
    for k in range(count):
        link = folder / f"{k // len(files)}_{files[k % len(files)].name}"
        link.symlink_to(files[k % len(files)].resolve())
    return folder


def timed(command: Sequence[object]) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: when it fails; with the end of what it said.
    """
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen([str(c) for c in command], stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            msg = f"{command[:4]} ended with {process.returncode}: {said.read()[-2000:].decode()}"
            raise RuntimeError(msg)
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def segmenting(
    label: str, bundle: Path, scans: Path, output: Path, python: Path | str = sys.executable
) -> list[object]:
    """The command of ``monai.bundle run``, or of ``segment`` with the engine ``label``."""
    if label == "monai.bundle run":
        command: list[object] = [python, "-m", "monai.bundle", "run", "--config_file"]
        command += [bundle / "configs" / "inference.json", "--bundle_root", bundle]
        return [*command, "--dataset_dir", scans, "--output_dir", output]
    command = [python, "-m", "perforated_monai", "segment", scans, output, "--bundle", bundle]
    return [*command, "--device", "cpu", "--engine", label]
