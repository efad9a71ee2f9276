"""Weights of a network: read from a file, loaded strictly, written, and known by a hash."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError

# How MONAI's and other savers call the network among what they save.
_NAMES = ("model", "network", "net", "state_dict", "model_state_dict")


def read_state(file: str | Path) -> dict[str, Tensor]:
    """Read a state dict on the CPU with ``weights_only=True``.

    A flat one, or one inside a mapping under ``model``, ``network``, ``net`` or ``state_dict``.

    Raises:
        UserError: for a file that is missing, damaged or holds anything but tensors.
    """
    file = Path(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        msg = f"There are no weights at {file}: fetch them, or name another file."
        raise UserError(msg) from None
    except Exception as error:  # torch raises by what it meets: six kinds for damaged files alone
        msg = f"{file} does not read as tensors ({type(error).__name__}). Fetch it again."
        raise UserError(msg) from None
    if isinstance(content, Mapping):
        content = next((content[n] for n in _NAMES if isinstance(content.get(n), Mapping)), content)
    tensors = isinstance(content, Mapping) and all(isinstance(t, Tensor) for t in content.values())
    if not tensors or not content:
        msg = f"{file} must hold a state dict of tensors, flat or under one of {', '.join(_NAMES)}."
        raise UserError(msg)
    return dict(content)


def load_start(network: nn.Module, file: str | Path) -> None:
    """Give a network, in place, the weights that its training starts from.

    Raises:
        UserError: as ``read_state``, or naming the tensors that do not fit.
    """
    state = read_state(file)
    expect_fit(network.state_dict(), state, file)
    network.load_state_dict(state, strict=True)


def tensor_bytes(state: Mapping[str, Tensor]) -> bytes:
    """A flat state dict as ``torch.save`` writes it, every tensor with memory of its own."""
    buffer = io.BytesIO()
    torch.save({k: v.detach().contiguous().clone() for k, v in state.items()}, buffer)
    return buffer.getvalue()


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values, whatever file they were read from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_weights(network: nn.Module, file: str | Path, sha256: str | None = None) -> nn.Module:
    """Load a flat state dict, strictly; every missing, unexpected or reshaped tensor is named.

    Args:
        network: built by ``build_network``; changed in place and returned.
        file: ``model.pt``, read with ``weights_only=True``.
        sha256: expected hash of the file, or None.

    Raises:
        UserError: for another hash, a file of anything but tensors, or tensors that do not fit.
    """
    state = read_weights(file, sha256)
    expect_fit(network.state_dict(), state, file)
    network.load_state_dict(state, strict=True)
    return network


def read_weights(file: str | Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read a flat state dict with ``weights_only=True``; arguments and errors as above."""
    data = Path(file).read_bytes()
    actual = hashlib.sha256(data).hexdigest()
    if sha256 is not None and actual != sha256:
        msg = (
            f"{file} must have sha256 {sha256[:16]}…, not {actual[:16]}…. Export or fetch it again."
        )
        raise UserError(msg)
    return _read_tensors(file, data)


def expect_fit(
    want: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], file: str | Path
) -> None:
    """Refuse a state dict that is not that of a network, by names and shapes.

    Args:
        want: the network's own state dict; its tensors may lie on the meta device.
        state: what the file holds.
        file: named in the error.

    Raises:
        UserError: naming the first tensors that are missing, unexpected or reshaped.
    """
    problems = [f"missing {k}" for k in want if k not in state]
    problems += [f"unexpected {k}" for k in state if k not in want]
    problems += [
        f"{k} is {tuple(state[k].shape)}, the network has {tuple(want[k].shape)}"
        for k in want
        if k in state and state[k].shape != want[k].shape
    ]
    if problems:
        shown = "; ".join(problems[:5])
        msg = f"{file} does not fit this network ({len(problems)} tensors: {shown}). "
        raise UserError(msg + "Use the network_def that was exported with it.")


def _read_tensors(file: str | Path, data: bytes) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises by what it meets: six kinds for damaged files alone
        msg = f"{file} does not read as tensors ({type(error).__name__}). Export or fetch it again."
        raise UserError(msg) from error
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        msg = f"{file} must hold a flat state dict of tensors. Export it with perforated_monai."
        raise UserError(msg)
    return state
