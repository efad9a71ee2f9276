"""How far a network's outputs are from another's, and what a patch costs on this machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cost import Run, peak_memory, time_patches

LEAST_AGREEMENT = 0.9999
_LONG = 2.0  # seconds of one call, above which fewer rounds are timed
Progress = Callable[[int, int], object]


def tensor(output: Any) -> Tensor:
    """The prediction among a network's outputs: the first of deep supervision, all of a mapping."""
    if isinstance(output, Mapping):  # as HoVerNet's, whose heads have one size
        return torch.cat([output[key] for key in sorted(output)], dim=1)
    return output[0] if isinstance(output, (list, tuple)) else output


def outputs(run: Run, batches: list[Tensor], progress: Progress | None = None) -> list[Tensor]:
    """Outputs for each batch, without gradients; ``progress`` hears of each: done, of how many."""
    made = []
    with torch.no_grad():
        for number, x in enumerate(batches, start=1):
            made.append(tensor(run(x)).float())
            if progress is not None:
                progress(number, len(batches))
    return made


def compare(
    reference: list[Tensor], others: list[Tensor], exclusive: bool = True
) -> dict[str, float]:
    """Differences between two networks' outputs over the same batches.

    Args:
        reference: ``(B, K, *space)`` each.
        others: likewise.
        exclusive: one label a voxel (argmax); otherwise, and for K = 1, each channel is a region
            (logit > 0).

    Returns:
        ``max_abs_difference``, the same ``relative`` to the largest reference output (at least 1),
        and ``label_agreement``, the share of equal labels.
    """
    both = list(zip(reference, others, strict=True))
    largest = max(float((a - b).abs().max()) for a, b in both)
    scale = max(float(a.abs().max()) for a in reference)
    pairs = [(_labels(a, exclusive), _labels(b, exclusive)) for a, b in both]
    same = sum(int((a == b).sum()) for a, b in pairs)
    total = sum(a.numel() for a, _ in pairs)
    return {
        "max_abs_difference": largest,
        "relative": largest / max(scale, 1.0),
        "label_agreement": same / total,
    }


def exclusive_labels(inference: Mapping[str, Any]) -> bool:
    """Whether a bundle's postprocessing takes the argmax over channels."""
    steps = inference.get("postprocessing", {})
    steps = steps.get("transforms", []) if isinstance(steps, dict) else steps
    discrete = [s for s in steps if isinstance(s, dict) and "AsDiscrete" in s.get("_target_", "")]
    return not discrete or any(bool(s.get("argmax")) for s in discrete)


def measure(runs: Mapping[str, Run], x: Tensor) -> dict[str, dict[str, Any]]:
    """Milliseconds a patch (median and quartiles) and peak MiB of each run on one batch."""
    with torch.no_grad():
        start = time.perf_counter()
        next(iter(runs.values()))(x)
        long = time.perf_counter() - start > _LONG
        times = time_patches(runs, x, rounds=2 if long else 5)
        memory = {name: peak_memory(run, x) for name, run in runs.items()}
    return {n: {"ms_per_patch": times[n], "peak_memory_mib": memory[n]} for n in runs}


def machine() -> dict[str, Any]:
    """What the times depend on; nothing that names a computer or a person."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {"cpu": model, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _labels(output: Tensor, exclusive: bool) -> Tensor:
    return output.argmax(1) if exclusive and output.size(1) > 1 else output > 0
