"""``TrialRecord``: what the tested network of a trial costs, and its worst cases."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from torch import Tensor, nn

from ...files import atomic, write_json
from ...growth.folded import without_masks
from ...networks.cost import count_flops, peak_memory, time_patches
from ...networks.surgery import count_parameters

_KEPT = 3


class TrialRecord:
    """Write ``test.json`` and ``worst.npz`` when the test cases are done.

    ``test.json``, of the network as export would make it: parameters, FLOPs of one patch, bytes of
    the weights, CPU milliseconds of a patch on one thread (median of five, batch 2), peak memory of
    that call, device, CPU seconds of the process. ``worst.npz``: of the three cases with the lowest
    mean Dice, the axial slice with the largest true structure, as label values: true and predicted,
    ``(X, Y)`` each; a nested region has the number of regions around it.

    Args:
        output_dir: folder of both files.
        network: the network that was tested.
        patch: voxels of a training patch.
        regions: outputs are nested regions, the outermost first, instead of exclusive classes.
    """

    def __init__(
        self, output_dir: str | Path, network: nn.Module, patch: list[int], regions: bool = False
    ) -> None:
        self.folder, self.network, self.patch = Path(output_dir), network, list(patch)
        self.regions = regions
        self._worst: list[tuple[float, str, dict[str, np.ndarray]]] = []

    def attach(self, evaluator: Any) -> None:
        """Look at each case; write at the end."""
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        evaluator.add_event_handler(Events.COMPLETED, self._write)

    def _step(self, evaluator: Any) -> None:
        for item, batch in zip(evaluator.state.output, evaluator.state.batch, strict=True):
            self._channels = int(item["image"].shape[0])
            label, pred = (_values(item[k], self.regions) for k in ("label", "pred"))
            score = _mean_dice(label, pred)
            self._worst.append((score, str(batch["case"]), _slices(item["image"], label, pred)))
            self._worst = sorted(self._worst, key=lambda w: w[:2])[:_KEPT]

    def _write(self, evaluator: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        outlines: dict[str, np.ndarray] = {
            "cases": np.array([w[1] for w in self._worst]),
            "regions": np.array(self.regions),
        }
        images = {}
        for i, (_, _, slices) in enumerate(self._worst):
            outlines |= {f"label_{i}": slices["label"], f"pred_{i}": slices["pred"]}
            images[f"image_{i}"] = slices["image"]
        for name, arrays in (("worst.npz", outlines), ("worst_image.npz", images)):
            with atomic(self.folder / name) as temporary, temporary.open("wb") as handle:
                np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
        write_json(self.folder / "test.json", self._costs())

    def _costs(self) -> dict[str, Any]:
        network = without_masks(self.network)
        device = next(network.parameters()).device
        x = torch.randn(2, self._channels, *self.patch, device=device)
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                clock = time.process_time if device.type == "cpu" else time.perf_counter
                times = time_patches({"it": network}, x, rounds=5, clock=clock)["it"]
                memory = peak_memory(network, x)
        finally:
            torch.set_num_threads(threads)
        return {
            "parameters": count_parameters(network),
            "flops": count_flops(network, x),
            "file_bytes": buffer.tell(),
            "latency_ms": times["median"],
            "peak_memory_mib": memory,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "cpu_minutes": round(time.process_time() / 60, 3),
        }


def _values(one_hot: Tensor, regions: bool) -> np.ndarray:
    """``(C, X, Y, Z)`` one-hot with background, or nested regions -> values ``(X, Y, Z)``."""
    if regions:
        return one_hot.sum(dim=0).to(torch.uint8).cpu().numpy()
    return one_hot.argmax(dim=0).to(torch.uint8).cpu().numpy()


def _mean_dice(label: np.ndarray, pred: np.ndarray) -> float:
    scores = []
    for value in range(1, int(max(label.max(), pred.max())) + 1):
        a, b = label == value, pred == value
        if a.any() or b.any():
            scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores)) if scores else 1.0


def _slices(image: Tensor, label: np.ndarray, pred: np.ndarray) -> dict[str, np.ndarray]:
    where = label if label.any() else pred
    z = int(np.argmax((where > 0).sum(axis=(0, 1))))
    shown = image[0, :, :, z].float().cpu().numpy().astype(np.float16)
    return {"image": shown, "label": label[:, :, z], "pred": pred[:, :, z]}
