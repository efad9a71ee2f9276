"""What the kinds share that read a layer's output or the image, at a site beside a layer."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self

import torch
from torch import nn

from ...errors import UserError
from ..kind import Kind, UnfitError, count_or_zero, measured, setting
from ..patterns import matches
from ..sited_layer import SitedDendriticLayer
from ..sites import Main
from ..trace import Trace


@dataclass(frozen=True)
class SitedKind(Kind):
    """A kind whose shapes come from a forward pass of the network (``trace``).

    ``settle`` gives it every setting and every shape; from then on it needs no layer.
    """

    blocks: ClassVar[tuple[str, ...]] = ()
    layer_class: ClassVar[type[SitedDendriticLayer]] = SitedDendriticLayer

    kernel: int = setting(
        0, ", taps an axis; 0: its own", "an odd whole number >= 0",
        lambda v: type(v) is int and (v == 0 or (v % 2 == 1 and v > 0)),
    )  # fmt: skip
    dilation: int = count_or_zero(", voxels between taps; 0: 1")
    hidden: int = count_or_zero(", channels inside; 0: its own")
    reads: str = setting(
        "",
        ": what it sees",
        "output, input or image, as its kind can",
        lambda v: isinstance(v, str),
    )
    inputs: int = measured("a whole number >= 1")
    outputs: int = measured("a whole number >= 1")
    dims: int = measured("1, 2 or 3", lambda v: type(v) is int and 1 <= v <= 3)

    @abstractmethod
    def settle(self, name: str, seen: Trace) -> Self:
        """The kind with its settings and the shapes at one layer.

        Raises:
            UnfitError: with the reason, where the layer can have no such dendrite.
        """

    @abstractmethod
    def usual(self, names: list[str], seen: Trace) -> list[str]:
        """Of the layers that could have one, those that get one when nobody names any."""

    @property
    def settled(self) -> bool:
        """Whether the shapes are known."""
        return self.outputs > 0

    @abstractmethod
    def draw(self, like: dict[str, Any]) -> nn.Module:
        """One dendrite with fresh weights, on a device and with a dtype."""

    def fits(self, layer: nn.Module) -> Self:
        """The kind itself, once it is settled, or as its site holds it; see ``Kind.fits``."""
        if self.settled:
            return self
        if isinstance(layer, Main) and isinstance(layer.kind, type(self)):
            return layer.kind
        msg = f"kind {self.name} needs a place in a network, and {type(layer).__name__} is a layer"
        raise TypeError(msg)

    def cost(self, layer: nn.Module) -> int:
        """Parameters of one dendrite, and one output weight a channel."""
        kind = self.fits(layer)
        own = sum(p.numel() for p in kind.draw({}).parameters())
        return own + kind.outputs

    def make(self, layer: nn.Module) -> nn.Module:
        """A dendrite with fresh weights, on the layer's device and with its dtype."""
        parameter = next(layer.parameters(), None)
        like = {} if parameter is None else {"device": parameter.device, "dtype": parameter.dtype}
        return self.fits(layer).draw(like)

    def run(self, layer: nn.Module, count: int, activation: str) -> SitedDendriticLayer:
        """The layer as it is, and its dendrites at its site."""
        with torch.random.fork_rng(devices=[]):
            one = self.make(layer)
        return self.layer_class(layer, count, one, activation, self)

    def places(
        self, network: nn.Module, seen: Trace, patterns: list[str], exclude: list[str]
    ) -> dict[str, Self]:
        """The layers that get a dendrite, each with the kind that is settled for it.

        A pattern matches the blocks that the kind knows (``blocks``); a name in full may be any
        module. ``*`` leaves the choice to the kind.

        Raises:
            UserError: when a pattern matches nothing, a layer named in full cannot have one, or
                nothing is left.
        """
        modules = dict(network.named_modules())
        known = [n for n, m in modules.items() if n and self._knows(n, m, seen)]
        left = [n for n in known if not matches(n, exclude)]
        if patterns == ["*"]:
            reasons = self._reasons(left, seen)
            names = self.usual([n for n in left if n not in reasons], seen)
            if not names:
                raise UserError(self._nothing(network, reasons))
        else:
            names = []
            for pattern in patterns:
                found = [pattern] if pattern in modules else []
                found = found or [n for n in left if fnmatchcase(n, pattern)]
                if not found:
                    raise UserError(self._no_match(pattern, network, known))
                names += [n for n in found if n not in names and not matches(n, exclude)]
        made: dict[str, Self] = {}
        for name in names:
            try:
                made[name] = self.settle(name, seen)
            except UnfitError as error:
                msg = (
                    f"Layer {name!r} cannot have {self.name} dendrites: {error}. Put it into "
                    "exclude, or name another layer."
                )
                raise UserError(msg) from None
        return made

    def _knows(self, name: str, module: nn.Module, seen: Trace) -> bool:
        return type(module).__name__ in self.blocks

    def _reasons(self, names: list[str], seen: Trace) -> dict[str, str]:
        """Why layers can have no such dendrite; those that can are not in it."""
        reasons = {}
        for name in names:
            try:
                self.settle(name, seen)
            except UnfitError as error:
                reasons[name] = str(error)
        return reasons

    def _nothing(self, network: nn.Module, reasons: dict[str, str]) -> str:
        reason = f"it has none of {', '.join(self.blocks)}" if self.blocks else "it has no place"
        for name, why in reasons.items():
            reason = f"{name!r}: {why}"
            break
        return (
            f"kind {self.name} finds no place in {type(network).__name__} ({reason}). Name a "
            "layer, or leave this kind out."
        )

    def _no_match(self, pattern: str, network: nn.Module, known: list[str]) -> str:
        names = known or [n for n, _ in network.named_modules() if n]
        close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
        return (
            f"kind {self.name}: {pattern!r} matches no block of {type(network).__name__}. "
            f"Nearest: {', '.join(close)}."
        )
