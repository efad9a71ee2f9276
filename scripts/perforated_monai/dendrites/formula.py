"""The formula of a layer with dendrites, as every plain layer runs it; torch only."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATIONS = ("sigmoid", "tanh", "relu", "identity")


def expect_formula(count: int, activation: str) -> None:
    """Refuse a number of dendrites or a non-linearity that the formula does not have.

    Raises:
        ValueError: for count < 1, which is the plain layer, or an unknown activation.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        msg = f"count must be a whole number >= 1; got {count!r}. For 0 use the plain layer."
        raise ValueError(msg)
    if activation not in ACTIVATIONS:
        msg = f"activation must be sigmoid, tanh, relu or identity; got {activation!r}."
        raise ValueError(msg)


def dendritic_sum(
    parts: list[Tensor], to_output: Tensor, between: Tensor, activation: str, last: bool
) -> Tensor:
    """The formula of ``DendriticLayer`` over branch outputs; scriptable.

    Args:
        parts: outputs of the main branch and of D dendrites, ``(B, C, *space)`` each, or
            ``(..., C)`` with ``last``. Without gradients the dendrites' tensors are overwritten:
            on memory-bound maps this took a third of the time of D(D+1)/2 new ones.
        to_output: w, ``(D, C)``.
        between: v, ``(D(D-1)/2, C)``.
        activation: name of f.
        last: channels lie on the last axis.
    """
    overwrite = not torch.is_grad_enabled()
    if not torch.jit.is_scripting() and (torch.jit.is_tracing() or torch.compiler.is_compiling()):
        overwrite = False  # a graph of new tensors is what engines fuse
    out = parts[0]
    shape = [1] * out.dim()
    shape[-1 if last else 1] = to_output.size(1)
    active: list[Tensor] = []
    row = 0
    for i in range(len(parts) - 1):
        a = parts[i + 1]
        for j in range(i):
            v = between[row].to(a.dtype).view(shape)
            a = a.addcmul_(v, active[j]) if overwrite else torch.addcmul(a, v, active[j])
            row += 1
        f = activate(a, activation, overwrite)
        active.append(f)
        w = to_output[i].to(out.dtype).view(shape)
        # The first sum is a new tensor, so that the wide one is freed when this returns.
        out = out.addcmul_(w, f) if overwrite and i > 0 else torch.addcmul(out, w, f)
    return out


def activate(x: Tensor, name: str, overwrite: bool = False) -> Tensor:
    """F of a dendrite by its name, in place where asked for."""
    if name == "sigmoid":
        return x.sigmoid_() if overwrite else torch.sigmoid(x)
    if name == "tanh":
        return x.tanh_() if overwrite else torch.tanh(x)
    if name == "relu":
        return x.relu_() if overwrite else torch.relu(x)
    return x
