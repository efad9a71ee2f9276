"""Memory that a scan will take, and that is free."""

from __future__ import annotations

import os
from pathlib import Path

# Largest tensors of a UNet's top level that live at once: input and output of a convolution, its
# normalised copy, and the skip connection.
_LIVE_TENSORS = 4


def free_memory() -> int | None:
    """Bytes that can be taken without swapping; the container's limit counts. None if unknown."""
    free = _meminfo()
    limit, used = (_number(f"/sys/fs/cgroup/memory.{n}") for n in ("max", "current"))
    if limit is not None and used is not None:
        free = min(free, limit - used) if free is not None else limit - used
    return free


def activation_bytes(width: int) -> int:
    """Rough float32 bytes of a network's activations a voxel, from its first layer's channels."""
    return 4 * _LIVE_TENSORS * width


def as_text(count: float) -> str:
    """Bytes as ``1.4 GiB`` or ``350 MiB``."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _meminfo() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None
