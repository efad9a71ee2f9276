"""Parameters, FLOPs, time, memory and energy of several networks, measured in turn."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...networks.agreement import machine
from ...networks.cost import count_flops, peak_memory, time_patches
from ...networks.surgery import count_parameters
from ..energy import EnergyMeter
from .subject import Subject

BATCH = 2  # at 1 PyTorch takes a slow path for plain convolutions: a comparison would be of that
_METERED = 20  # windows a reading of the energy meter is spread over


def measure_costs(
    subjects: Sequence[Subject], window: Sequence[int], rounds: int = 7
) -> dict[str, Any]:
    """Measure every subject on the same input.

    Windows are standard-normal noise, as z-scored images are on average; of a network whose gates
    skip work by its input, time and energy are those on noise.

    Args:
        subjects: at least one, all with as many input channels.
        window: voxels of the input.
        rounds: timed calls of each network; they take turns, so that other work on the machine
            meets all of them.

    Returns:
        ``machine``, ``window``, ``batch``, and by name ``rows``: parameters, flops (a window),
        file_bytes, ms_1 and ms_2 (CPU threads; one thread by CPU time, two by wall time), ms_gpu,
        peak_memory_mib, joules (a window); None where there is no meter or no GPU.

    Raises:
        UserError: for networks that cannot be compared on one input.
    """
    channels = {s.channels for s in subjects}
    if len(channels) > 1:
        named = ", ".join(f"{s.name} {s.channels}" for s in subjects)
        msg = f"Networks must take as many channels to be compared; got {named}. Run them apart."
        raise UserError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(BATCH, channels.pop(), *window)
    for subject in subjects:
        _expect_window(subject, x)
    networks = {s.name: s.network for s in subjects}
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode():
            torch.set_num_threads(1)
            one = time_patches(networks, x, rounds, time.process_time)
            memory = {n: peak_memory(f, x) for n, f in networks.items()}
            joules = {n: _joules(f, x) for n, f in networks.items()}
            torch.set_num_threads(2)
            two = time_patches(networks, x, rounds)
    finally:
        torch.set_num_threads(threads)
    gpu = _on_gpu(networks, x, rounds)
    rows = {
        s.name: {
            "parameters": count_parameters(s.network),
            "flops": count_flops(s.network, x),
            "file_bytes": s.file_bytes,
            "ms_1": one[s.name],
            "ms_2": two[s.name],
            "ms_gpu": gpu.get(s.name),
            "peak_memory_mib": memory[s.name],
            "joules": joules[s.name],
        }
        for s in subjects
    }
    about = machine() | {"system": platform.system()}
    about.pop("threads", None)
    if gpu:
        about["gpu"] = torch.cuda.get_device_name()
    return {"machine": about, "window": list(window), "batch": BATCH, "rows": rows}


def _expect_window(subject: Subject, x: Tensor) -> None:
    try:
        with torch.inference_mode():
            subject.network(x[:1])
    except (RuntimeError, ValueError) as error:
        size = "×".join(map(str, x.shape[2:]))
        reason = str(error).strip().splitlines()[0][:160]
        msg = f"{subject.name} cannot take a window of {size}: {reason}. Give another --window."
        raise UserError(msg) from None


def _joules(network: nn.Module, x: Tensor) -> float | None:
    """Joules a window, of the whole device; None without a meter."""
    meter = EnergyMeter()
    if meter.joules() is None:
        return None
    for _ in range(_METERED // BATCH):
        network(x)
    spent = meter.joules()
    return None if spent is None else round(spent / _METERED, 4)


def _on_gpu(networks: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {}
    device = torch.device("cuda")
    try:
        with torch.inference_mode():
            moved = {name: network.to(device) for name, network in networks.items()}
            return time_patches(moved, x.to(device), rounds)
    finally:
        for network in networks.values():
            network.cpu()
