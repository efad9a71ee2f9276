"""``Kind``: what a kind of dendrite must say of itself; each kind is one class in ``kinds/``."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn


class UnfitError(ValueError):
    """A layer has no dendrite of this kind that costs less than a copy of it."""


def setting(default: Any, note: str, rule: str, holds: Callable[[Any], bool]) -> Any:
    """A setting of a kind: a dataclass field with what people and checks need to know of it.

    Args:
        default: in the configuration of growth; what a network spec holds is always given.
        note: the comment beside it in an overlay, behind the kind's name.
        rule: what a value must be, in words.
        holds: whether a value of the configuration is that.
    """
    return dataclasses.field(default=default, metadata={"note": note, "rule": rule, "holds": holds})


def count_or_zero(note: str) -> Any:
    """A whole number that a kind needs for each layer; 0 lets the kind choose it."""
    return setting(0, note, "a whole number >= 0", lambda v: type(v) is int and v >= 0)


def measured(rule: str, holds: Callable[[Any], bool] | None = None, default: Any = 0) -> Any:
    """A shape that a kind takes from the network: part of a spec, and no setting of a person.

    Args:
        rule: what a value must be, in words.
        holds: whether a value of a spec is that; a whole number >= 1 by default.
        default: while it is unknown.
    """
    test = holds or (lambda v: type(v) is int and v >= 1)
    metadata = {"rule": rule, "holds": test, "measured": True}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Kind(ABC):
    """A kind of dendrite; its fields are its settings, 0 where one is chosen for each layer.

    A new kind is a subclass in a file of its own and a line in ``kinds.KINDS``. Configuration,
    overlays, specs, growth and export ask nothing but what stands here.
    """

    name: ClassVar[str]

    @property
    def least_size(self) -> int:
        """Voxels an axis that the map it reads must have."""
        return 1

    @abstractmethod
    def fits(self, layer: nn.Module) -> Self:
        """The kind with every setting chosen for one layer.

        Raises:
            UnfitError: with the reason, where the layer can have no such dendrite, or none cheaper
                than a copy of it.
            TypeError: for a module of another sort than the kind takes.
        """

    @abstractmethod
    def cost(self, layer: nn.Module) -> int:
        """Parameters that one dendrite adds: its own and one output weight a channel.

        Raises:
            UnfitError, TypeError: as ``fits``.
        """

    @abstractmethod
    def make(self, layer: nn.Module) -> nn.Module:
        """One dendrite for the tracker, with the layer's input and output shapes.

        Raises:
            UnfitError, TypeError: as ``fits``.
        """

    @abstractmethod
    def run(self, layer: nn.Module, count: int, activation: str) -> Any:
        """The plain module of a layer and ``count`` dendrites, with fresh weights.

        It has ``count``, ``channels`` and ``activation``, and takes trained weights by
        ``load_branches`` (see ``DendriticLayer``).

        Raises:
            UnfitError, TypeError: as ``fits``.
            ValueError: for a wrong count or activation.
        """

    @classmethod
    def settings(cls) -> tuple[dataclasses.Field[Any], ...]:
        """The settings of this kind that a person gives, in order."""
        return tuple(f for f in dataclasses.fields(cls) if "measured" not in f.metadata)

    def entry(self) -> dict[str, Any]:
        """Its part of a layer's entry in a network spec: settings and measured shapes."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items() if v}
        return {"kind": self.name, **plain}

    def given(self) -> bool:
        """Whether a setting is given, so that it must suit every layer."""
        return any(getattr(self, s.name) != s.default for s in self.settings())
