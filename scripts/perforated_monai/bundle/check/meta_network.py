"""A network from its definition in a config: names and shapes, without memory or foreign code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# MONAI networks whose constructors take numbers and names of layers, and open no file or address.
# Others (ResNet, HoVerNet, MILModel, Transchex, ...) can fetch or read weights when they are built.
PLAIN_NETWORKS = (
    *("UNet", "Unet", "BasicUNet", "BasicUNetPlusPlus", "AttentionUnet", "DynUNet", "RegUNet"),
    *("SegResNet", "SegResNetVAE", "SegResNetDS", "SegResNetDS2", "SwinUNETR", "UNETR", "VNet"),
    *("HighResNet", "MedNeXt", "AutoEncoder", "VarAutoEncoder", "ViT", "VISTA3D", "Quicknat"),
)
OURS = "perforated_monai.build_network"
OUR_NETWORKS = "perforated_monai.nets."
MOST_MODULES = 5_000
LARGEST_NUMBER = 10**6
MOST_CHARACTERS = 10**6


@dataclass
class NetworkOrReason:
    """A network on the meta device, or why it was not built: `broken` is the bundle's fault."""

    network: Any = None
    reason: str = ""
    broken: bool = False


def build(definition: dict[str, Any]) -> NetworkOrReason:
    """Build a network from a definition without expressions and references.

    Its tensors have shapes and no values, so a definition cannot ask for memory; the number of
    modules is limited, so it cannot ask for hours either.
    """
    from ...networks.build import base_spec, build_network

    target = str(definition.get("_target_", ""))
    if not target:
        return NetworkOrReason(reason="no _target_", broken=True)
    text = json.dumps(definition.get("spec", definition))
    if any(sign in text for sign in ('"$', '"@', '"%')):
        return NetworkOrReason(reason="expressions or references, which a check does not evaluate")
    try:
        if target == OURS:
            spec = definition["spec"]
        elif _is_plain(target):
            spec = {"format": 1, "base": base_spec(definition), "dendrites": {}}
        else:
            return NetworkOrReason(reason=f"{target}, which is not built for a check")
        if name := _reads_files(spec):
            return NetworkOrReason(reason=f"{name}, which may run or read anything when built")
        _refuse_too_large(spec, text)
        with on_meta():
            return NetworkOrReason(build_network(spec).eval())
    except Exception as error:  # a network's constructor raises anything
        return NetworkOrReason(reason=" ".join(str(error).split())[:300], broken=True)


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Build and run networks for their shapes alone: tensors made inside have no values.

    Raises:
        ValueError: when more modules are made than any network here has.
    """
    import torch
    from torch.nn.modules.module import register_module_module_registration_hook
    from torch.overrides import TorchFunctionMode

    class RealLinspace(TorchFunctionMode):
        """SwinUNETR reads its drop rates from a linspace, which must have values."""

        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            more = {"device": "cpu"} if func is torch.linspace else {}
            return func(*args, **(more | (kwargs or {})))

    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > MOST_MODULES:
            msg = f"more than {MOST_MODULES} modules"
            raise ValueError(msg)

    hook = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"), RealLinspace(), torch.no_grad():
            yield
    finally:
        hook.remove()


def _is_plain(target: str) -> bool:
    from ...networks import catalogue as nets

    known = (*PLAIN_NETWORKS, *(OUR_NETWORKS + name for name in nets.__all__))
    return target.removeprefix("monai.networks.nets.") in known


def _reads_files(spec: Any) -> str:
    """The network that is not in the list, or code of a bundle's own; or ""."""
    from ...networks.makers import is_own

    base = spec.get("base") if isinstance(spec, dict) else None
    name = str(base.get("name")) if isinstance(base, dict) else ""
    import monai.networks.nets as nets

    read = hasattr(nets, name) and name not in PLAIN_NETWORKS
    return name if read or is_own(name) else ""


def _refuse_too_large(spec: Any, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        msg = f"a definition of {len(text)} characters; at most {MOST_CHARACTERS} are read"
        raise ValueError(msg)
    if (largest := max(_numbers(spec), default=0)) > LARGEST_NUMBER:
        msg = f"the number {largest:.3g}; at most {LARGEST_NUMBER} is allowed in a network"
        raise ValueError(msg)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, (int, float)):
        yield abs(value)
