"""Weights of a network: read from a file, loaded strictly, written, and known by a hash."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError
from .build import expect_fit

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
        found = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        msg = f"There are no weights at {file}: fetch them, or name another file."
        raise UserError(msg) from None
    except Exception as error:  # torch raises by what it meets: six kinds for damaged files alone
        msg = f"{file} does not read as tensors ({type(error).__name__}). Fetch it again."
        raise UserError(msg) from None
    if isinstance(found, Mapping):
        found = next((found[n] for n in _NAMES if isinstance(found.get(n), Mapping)), found)
    tensors = isinstance(found, Mapping) and all(isinstance(t, Tensor) for t in found.values())
    if not tensors or not found:
        msg = f"{file} must hold a state dict of tensors, flat or under one of {', '.join(_NAMES)}."
        raise UserError(msg)
    return dict(found)


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
