"""Which layers of a network grow: types and name patterns, with an error when nothing matches."""

from __future__ import annotations

import difflib
import warnings
from fnmatch import fnmatchcase

from torch import nn

from ..errors import UserError
from .config import DendriteConfig
from .kind import Kind, UnfitError
from .kinds.sited import SitedKind
from .patterns import matches
from .trace import Trace, trace

_SHOWN = 5  # names in a message about many layers


class NoMatchingLayerError(UserError):
    """Raised when a pattern matches nothing or none is left; the run would be silent about it."""


def find_layers(network: nn.Module, config: DendriteConfig) -> list[str]:
    """Names of the layers that will grow, in the network's own order; see ``find_targets``."""
    return list(find_targets(network, config))


def find_targets(
    network: nn.Module, config: DendriteConfig, seen: Trace | None = None
) -> dict[str, Kind]:
    """The layers that will grow, in the network's own order, and the kind of their dendrites.

    A kind that reads a layer's output or the image chooses its places from the shapes of a forward
    pass, and is settled for them; the others take their layers by type and name.

    Args:
        network: plain.
        config: kinds and layers.
        seen: shapes in the network, where the caller has them; otherwise learned when needed.

    Raises:
        NoMatchingLayerError: as ``input_layers``.
        UserError: for a network whose shapes cannot be learned, and when two parts of a set take
            one layer, or a layer and one inside it.
    """
    targets: dict[str, Kind] = {}
    for part in config.parts:
        kind = part.dendrite
        if isinstance(kind, SitedKind):
            seen = seen or trace(network)
            found: dict[str, Kind] = {**kind.places(network, seen, part.layer_names, part.exclude)}
        else:
            found = dict.fromkeys(input_layers(network, part), kind)
        for name in found:
            other = next((n for n in targets if _overlap(n, name)), None)
            if other is not None:
                msg = (
                    f"sets overlap: kinds {targets[other].name} and {kind.name} take {other!r} "
                    f"and {name!r}. Give the parts layers or exclude that keep them apart."
                )
                raise UserError(msg)
        targets |= found
    order = [name for name, _ in network.named_modules() if name in targets]
    return {name: targets[name] for name in order}


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def input_layers(network: nn.Module, config: DendriteConfig) -> list[str]:
    """Names of the layers that grow by a kind that reads their input, in the network's order.

    A layer grows when its class name is in ``config.layer_types``, its name matches one of
    ``config.layer_names`` and none of ``config.exclude``. Of nested matches the outer one grows
    (a MONAI ``Convolution`` block as a whole). Frozen layers are left alone with a warning:
    the tracker needs a gradient through every layer it grows. So are layers that have no dendrite
    of ``config.kind`` cheaper than a copy. A module that is reachable under two names grows once,
    under the first.

    Raises:
        NoMatchingLayerError: when nothing is left to grow, or one of ``layer_names`` matches no
            layer of these types; echoes the patterns and the nearest names.
        UserError: for ``groups`` or a ``rank`` that does not suit a layer, and for a layer named in
            full that cannot have the kind.
    """
    typed = {n: m for n, m in network.named_modules() if _is_one_of(m, config.layer_types)}
    for pattern in config.layer_names:
        if typed and not any(fnmatchcase(name, pattern) for name in typed):
            raise NoMatchingLayerError(_no_match(pattern, config, list(typed)))
    chosen: list[str] = []
    frozen: list[str] = []
    for name, module in typed.items():
        if not name or any(name.startswith(outer + ".") for outer in chosen):
            continue
        if not matches(name, config.layer_names) or matches(name, config.exclude):
            continue
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            frozen.append(name)
            continue
        chosen.append(name)
    if frozen:
        warnings.warn(f"Frozen layers do not grow: {_few(frozen, ', ')}.", stacklevel=3)
    if not chosen:
        raise NoMatchingLayerError(_nothing(network, config, typed, frozen))
    return _of_kind(typed, chosen, config)


def _is_one_of(module: nn.Module, names: list[str]) -> bool:
    """Whether a class of these names is the module's, or the one that torch gives it."""
    # A class that only runs faster than torch's, such as DepthwiseConv3d, is a Conv3d here.
    return any(kind.__name__ in names for kind in type(module).__mro__)


def _of_kind(modules: dict[str, nn.Module], chosen: list[str], config: DendriteConfig) -> list[str]:
    """Those of the chosen layers that can have a dendrite of ``config.kind``."""
    kind = config.dendrite
    reasons: dict[str, str] = {}
    for name in chosen:
        try:
            kind.fits(modules[name])
        except (UnfitError, TypeError) as error:
            reasons[name] = str(error)
    if not reasons:
        return chosen
    demanded = list(reasons) if kind.given() else config.layer_names
    refused = next((n for n in reasons if n in demanded), None)
    if refused is not None:
        msg = (
            f"Layer {refused!r} cannot have {kind.name} dendrites: {reasons[refused]}. Put it into "
            "exclude, or take another kind (or groups: 0, rank: 0 for each layer's own)."
        )
        raise UserError(msg)
    left = [name for name in chosen if name not in reasons]
    if not left:
        first = next(iter(reasons))
        msg = (
            f"kind {kind.name} leaves none of the {len(chosen)} chosen layers to grow, for example "
            f"{first!r}: {reasons[first]}. Take kind low_rank or copy."
        )
        raise NoMatchingLayerError(msg)
    shown = _few([f"{name} ({reason})" for name, reason in reasons.items()], "; ")
    said = f"Layers without {kind.name} dendrites do not grow: {shown}."
    warnings.warn(said, stacklevel=4)
    return left


def _few(texts: list[str], between: str) -> str:
    """The first texts of many, and how many there are."""
    more = f"{between}… ({len(texts)} in all)" if len(texts) > _SHOWN else ""
    return between.join(texts[:_SHOWN]) + more


def _nothing(
    network: nn.Module, config: DendriteConfig, typed: dict[str, nn.Module], frozen: list[str]
) -> str:
    if frozen:
        return f"Every matching layer is frozen ({', '.join(frozen[:5])}): unfreeze one to grow it."
    if not typed:
        kinds = sorted({type(m).__name__ for m in network.modules() if list(m.parameters(False))})
        return (
            f"layer_types={config.layer_types} matched no layer of {type(network).__name__}. "
            f"Types with weights there: {', '.join(kinds)}."
        )
    return (
        f"layer_names={config.layer_names} without exclude={config.exclude} leaves none of the "
        f"{len(typed)} layers of types {config.layer_types}. Take a pattern out of exclude."
    )


def _no_match(pattern: str, config: DendriteConfig, names: list[str]) -> str:
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
    return (
        f"layer_names={config.layer_names}: {pattern!r} matches none of the {len(names)} layers of "
        f"types {config.layer_types}. Nearest: {', '.join(close)}."
    )
