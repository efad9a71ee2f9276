"""What makes a network of a name: classes and factory functions of MONAI, ours, and a bundle's own.

A bundle's own class stands in its package ``scripts``, as the format of bundles has it. Its name is
written out (``scripts.networks.unest.UNesT``), and it is importable only where somebody has put the
bundle's folder on ``sys.path``: ``monai.bundle run`` does, and our commands with ``--trust``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import monai.networks.nets
from monai.bundle import ReferenceResolver
from torch import nn

from ..errors import UserError
from . import catalogue as nets

OWN = "scripts"  # the package of a bundle's own code
Maker = Callable[..., nn.Module]
# MONAI keeps other functions beside them, one of which downloads weights.
_FACTORIES = re.compile(r"MedNe[xX]t\w+|resnet\d+|vista3d\d+")
# Arguments that make a constructor fetch weights.
FETCHES = re.compile(r"pretrain|download|(^|_)url", re.IGNORECASE)


def name_in_spec(target: str) -> str:
    """``base.name`` of a spec for a ``_target_``: short for MONAI's and ours, whole for others."""
    return target if is_own(target) else target.rsplit(".", 1)[-1]


def is_own(name: str) -> bool:
    """Whether a name is of a bundle's own code."""
    return name.partition(".")[0] == OWN and "." in name


def monai_maker(name: str) -> Maker | None:
    """MONAI's class or factory function of a short name, such as ``UNet`` or ``vista3d132``."""
    symbol = getattr(monai.networks.nets, name, None)
    if inspect.isclass(symbol) and issubclass(symbol, nn.Module):
        return symbol
    return symbol if inspect.isfunction(symbol) and _FACTORIES.fullmatch(name) else None


def maker_of(name: str) -> Maker:
    """The class or factory function that a spec names.

    Raises:
        UserError: for no network, or own code that is not importable here.
    """
    if is_own(name):
        return _own_class(name)
    if name in nets.__all__:
        return getattr(nets, name)  # type: ignore[no-any-return]
    maker = monai_maker(name)
    if maker is None:
        msg = (
            "base.name must be a class or factory function of monai.networks.nets, a class of a "
            f"bundle's own scripts, or one of {', '.join(nets.__all__)}; got {name!r}."
        )
        raise UserError(msg)
    return maker


def make(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network by name and plain arguments.

    Raises:
        UserError: for arguments that it does not take, or a construction that fails.
    """
    maker = maker_of(name)
    arguments = _without_fetching(maker, arguments)
    try:
        inspect.signature(maker).bind(**arguments)
    except TypeError as error:
        msg = f"Network spec, base: {name} {error}."
        raise UserError(msg) from None
    try:
        network = maker(**arguments)
    except UserError:
        raise
    except Exception as error:  # a constructor may raise anything
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        msg = f"Network spec, base: {name} cannot be made here ({type(error).__name__}: {reason})."
        raise UserError(msg) from None
    if not isinstance(network, nn.Module):
        msg = f"Network spec, base: {name} made a {type(network).__name__}, no network."
        raise UserError(msg)
    return network


def _without_fetching(maker: Maker, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing is downloaded for weights that are loaded afterwards, also where that is default."""
    found = dict(arguments)
    for name, parameter in inspect.signature(maker).parameters.items():
        if FETCHES.search(name):
            if found.get(name, parameter.default) is True:
                found[name] = False
            elif isinstance(found.get(name), str):
                found[name] = None
    return found


def factory_call(text: Any) -> dict[str, Any] | None:
    """``$monai.networks.nets.vista3d132(in_channels=@n)`` as a component; None for anything else.

    Nothing is evaluated: arguments that are neither literals nor plain references stay expressions.
    """
    if not isinstance(text, str) or not text.startswith("$"):
        return None
    plain = ReferenceResolver.normalize_id(text[1:])
    shown = re.sub(r"@(\w[\w:]*)", lambda m: f"__id__({m[1]!r})", plain)
    try:
        node = ast.parse(shown.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        return None
    target = ast.unparse(node.func)
    known = target.startswith("monai.networks.nets.") or "." not in target
    if not known or monai_maker(target.rsplit(".", 1)[-1]) is None:
        return None
    return {"_target_": target, **{str(k.arg): _argument(k.value) for k in node.keywords}}


def _argument(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        text = re.sub(r"__id__\('([\w:]+)'\)", r"@\1", ast.unparse(node))
    return text if re.fullmatch(r"@[\w:]+", text) else f"${text}"


def _own_class(name: str) -> Maker:
    module, _, symbol = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), symbol, None)
    except ImportError as error:
        msg = (
            f"{name} is a network of a bundle's own code, which is not importable here ({error}): "
            "add --trust if you trust the bundle, or put its folder on PYTHONPATH."
        )
        raise UserError(msg) from None
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        msg = f"{name} must be a torch.nn.Module to grow; it is {type(found).__name__}."
        raise UserError(msg)
    return found
