"""Plain tensors inside a network that is called with MONAI's ``MetaTensor``."""

from __future__ import annotations

from typing import Any

from monai.data import MetaTensor
from torch import Tensor, nn


def run_on_plain_tensors(network: nn.Module) -> list[Any]:
    """Let a network compute on plain tensors and give its outputs the input's metadata.

    A hook on a ``MetaTensor`` never sees its gradient once the tensor is changed in place (torch
    2.13, monai 1.6.1), and perforatedai waits for that gradient: SegResNet and DynUNet, which add
    in place behind a convolution, could not grow.

    Returns:
        handles; ``remove()`` each to end it.
    """
    return [network.register_forward_pre_hook(_strip), network.register_forward_hook(_give_back)]


def _strip(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    tagged = [x for x in inputs if isinstance(x, MetaTensor)]
    network.__dict__["_tagged"] = tagged[0] if tagged else None
    return tuple(x.as_tensor() if isinstance(x, MetaTensor) else x for x in inputs)


def _give_back(network: nn.Module, _: Any, output: Any) -> Any:
    source = network.__dict__.pop("_tagged", None)
    return output if source is None else _tag(output, source)


def _tag(output: Any, source: MetaTensor) -> Any:
    if isinstance(output, (list, tuple)):  # deep supervision
        return type(output)(_tag(o, source) for o in output)
    if not isinstance(output, Tensor) or isinstance(output, MetaTensor):
        return output
    tagged: MetaTensor = output.as_subclass(MetaTensor)  # type: ignore[assignment]
    tagged.copy_meta_from(source, copy_attr=not source.is_batch)  # as MetaTensor's own operators
    return tagged
