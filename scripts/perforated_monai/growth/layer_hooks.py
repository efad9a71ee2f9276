"""Hooks on a wrapped layer: where its channels lie, and the type of its outputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..dendrites.wrapped import main_layer


def set_dimensions_on_first_forward(module: Any) -> None:
    """Tell the library which axis holds the channels, from the layer's first real output.

    A wrong value makes the library print and exit with code 0 in the first backward pass.
    """
    linear = isinstance(main_layer(module), nn.Linear)

    def hook(wrapped: Any, _: Any, out: Tensor) -> None:
        dimensions = [-1] * out.dim()
        dimensions[-1 if linear else 1] = 0
        if wrapped.this_output_dimensions.tolist() != dimensions:
            wrapped.set_this_output_dimensions(dimensions)
        handle.remove()

    handle = module.register_forward_hook(hook)


def keep_dtype(module: Any) -> Any:
    """Give a wrapped layer the output dtype of its main layer.

    Under bf16 autocast the library's float32 weights make the sum float32, and every activation
    behind it twice as large. The hook on the main layer is returned.
    """

    def remember(main: nn.Module, _: Any, out: Tensor) -> None:
        module.__dict__["_main_dtype"] = out.dtype

    def restore(wrapped: nn.Module, _: Any, out: Tensor) -> Tensor:
        return out.to(wrapped.__dict__.get("_main_dtype", out.dtype))

    module.register_forward_hook(restore)
    return main_layer(module).register_forward_hook(remember)
