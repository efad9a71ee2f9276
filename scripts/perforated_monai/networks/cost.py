"""What a network costs: floating-point operations, time a patch and peak memory."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Run = Callable[[Tensor], Tensor]


def count_flops(network: nn.Module, x: Tensor) -> int:
    """Floating-point operations of one sample (a multiply-add counts as two).

    Args:
        network: in eval mode.
        x: ``(B, C, *space)`` with B >= 2: at B = 1 a dendritic layer calls oneDNN by a name that
            ``FlopCounterMode`` does not know.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(x)
    return counter.get_total_flops() // x.size(0)


def time_patches(
    runs: Mapping[str, Run],
    x: Tensor,
    rounds: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Milliseconds a sample of several networks: median and quartiles.

    They run in turn, round after round, so that other work on the machine meets all of them; one
    round before the clock starts warms up.

    Args:
        runs: what to time, each called with ``x``.
        x: ``(B, C, *space)``.
        rounds: timed calls of each, at least 2.
        clock: seconds; ``time.process_time`` counts what the process used, of all threads together.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for counted in [False] + [True] * rounds:
        for name, run in runs.items():
            start = clock()
            run(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            if counted:
                times[name].append((clock() - start) * 1000 / x.size(0))
    return {name: _quartiles(values) for name, values in times.items()}


def peak_memory(run: Run, x: Tensor) -> float | None:
    """MiB that one call needs beyond what the process held before it; None where unknown.

    On Linux from the kernel's high-water mark of resident memory, which is reset first (proc(5),
    ``clear_refs`` 5); on a GPU from torch's allocator.
    """
    run(x)
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(x)
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    try:
        # Freed blocks that the allocator keeps would hide what the call takes.
        ctypes.CDLL(None).malloc_trim(0)
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        run(x)
        return round((_status("VmHWM") - before) / 1024, 1)
    except (OSError, AttributeError):
        return None


def _status(key: str) -> int:
    """A value of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def _quartiles(values: list[float]) -> dict[str, float]:
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 2), "q1": round(first, 2), "q3": round(third, 2)}
