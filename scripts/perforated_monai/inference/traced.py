"""A trace of a network: what engines are made from within a second."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .formats import Source


def traced(source: Source) -> Any:
    """The network as a TorchScript function whose weights are constants.

    Of a function, not of the module: TorchScript would compile each of its modules first, which
    took four times as long. It is not traced again to compare: who uses it compares labels anyway.
    """
    network = source.network

    def call(x: Tensor) -> Any:
        return network(x)

    with without_gradients(network), torch.no_grad():
        return torch.jit.trace(call, source.example(), check_trace=False)


@contextlib.contextmanager
def without_gradients(network: nn.Module) -> Iterator[None]:
    """No parameter asks for gradients in here: constants of a trace must not."""
    asked = [p for p in network.parameters() if p.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
