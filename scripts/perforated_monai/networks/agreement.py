"""How far a format's outputs are from the trained network's, what it costs, and the table."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cost import Run, peak_memory, time_patches

FORMAT = 1
LEAST_AGREEMENT = 0.9999
_MARKERS = re.compile(r"(<!-- parity -->).*?(<!-- /parity -->)", re.DOTALL)


def tensor(output: Any) -> Tensor:
    """The prediction among a network's outputs (deep supervision returns several)."""
    return output[0] if isinstance(output, (list, tuple)) else output


def outputs(run: Run, batches: list[Tensor]) -> list[Tensor]:
    """Outputs for each batch, without gradients."""
    with torch.no_grad():
        return [tensor(run(x)).float() for x in batches]


def compare(
    reference: list[Tensor], found: list[Tensor], exclusive: bool = True
) -> dict[str, float]:
    """Differences between two networks' outputs over the same batches.

    Args:
        reference: ``(B, K, *space)`` each.
        found: likewise.
        exclusive: one label a voxel (argmax); otherwise, and for K = 1, each channel is a region
            (logit > 0).

    Returns:
        ``max_abs_difference``, the same ``relative`` to the largest reference output (at least 1),
        and ``label_agreement``, the share of equal labels.
    """
    both = list(zip(reference, found, strict=True))
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


def measure(runs: Mapping[str, Run], x: Tensor, rounds: int = 5) -> dict[str, dict[str, Any]]:
    """Milliseconds a patch (median and quartiles) and peak MiB of each run on one batch."""
    with torch.no_grad():
        times = time_patches(runs, x, rounds)
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


def markdown(parity: Mapping[str, Any]) -> str:
    """The table of ``docs/README.md``."""
    parameters, flops = parity["parameters"], parity["flops"]
    patch = " × ".join(str(n) for n in parity["patch"][1:])
    lines = [
        f"{parity['volumes']}, {patch} voxels, {parity['batch']} at a time; "
        f"{parity['machine']['cpu']}, {parity['machine']['threads']} thread(s), torch "
        f"{parity['machine']['torch']}. {parameters['total']:,} parameters and "
        f"{flops['total'] / 1e9:.2f} GFLOP a patch (without dendrites {parameters['base']:,} and "
        f"{flops['base'] / 1e9:.2f}). Differences and labels are against {_reference(parity)}. "
        "Peak memory is what one more call takes: engines that keep their buffers show less.",
        "",
        "| | file | max abs difference | equal labels | ms a patch (quartiles) | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in parity["rows"]:
        ms, memory, size = row["ms_per_patch"], row["peak_memory_mib"], row["file_bytes"]
        lines.append(
            f"| {row['name']} | {'' if size is None else f'{size / 1e6:.2f} MB'} | "
            f"{row['max_abs_difference']:.1e} | {row['label_agreement']:.4%} | "
            f"{ms['median']:.1f} ({ms['q1']:.1f}–{ms['q3']:.1f}) | "
            f"{'' if memory is None else f'{memory:.0f} MiB'} |"
        )
    if "engine" in parity:
        lines += ["", f"Chosen engine: {parity['engine']['reason']}"]
    return "\n".join(lines)


def _reference(parity: Mapping[str, Any]) -> str:
    """Reports written before the key was there compared with the trained network."""
    if "trained" not in parity:
        return "the trained network"
    found = parity["trained"]
    return (
        f"`model.pt`, whose own to the trained network were {found['max_abs_difference']:.1e} and "
        f"{found['label_agreement']:.4%}"
    )


def put_between_markers(page: str, table: str) -> str:
    """``page`` with the table between its two parity markers; unchanged where it has none."""
    return _MARKERS.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", page)


def _labels(output: Tensor, exclusive: bool) -> Tensor:
    return output.argmax(1) if exclusive and output.size(1) > 1 else output > 0
