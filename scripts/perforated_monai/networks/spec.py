"""The network spec: a base network and its dendrites, as plain values that JSON holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from ..errors import UserError

FORMAT = 1


class DendritesEntry(TypedDict):
    """Dendrites of one layer; the settings of its kind stand beside these keys.

    Attributes:
        count: dendrites, at least 1.
        kind: a name of ``dendrites.kinds.KINDS``; ``copy`` where it is missing.
        activation: their non-linearity, a name of ``dendrites.formula.ACTIVATIONS``.
    """

    count: int
    kind: NotRequired[str]
    activation: str


class NetworkSpec(TypedDict):
    """What ``build_network`` rebuilds; ``models/network.json`` holds it with more keys.

    Attributes:
        format: 1; another one is refused by name.
        base: ``name``, a class of MONAI's networks or of ``networks.catalogue``, and its
            constructor arguments.
        dendrites: layer name of the base network -> its dendrites; empty for a plain network.
        base_sha256: of a delta: hash of the weights that the dendrites grew on.
        delta_sha256: of a delta: hash of ``dendrites.pt``.
    """

    format: int
    base: dict[str, Any]
    dendrites: dict[str, DendritesEntry]
    base_sha256: NotRequired[str]
    delta_sha256: NotRequired[str]


def plain_spec(base: dict[str, Any]) -> NetworkSpec:
    """The spec of a base network without dendrites."""
    return {"format": FORMAT, "base": base, "dendrites": {}}


def expect_spec(spec: Mapping[str, Any]) -> None:
    """Refuse a spec of another format, or one without a base network.

    Raises:
        UserError: naming the key and the value.
    """
    if not isinstance(spec, Mapping):
        msg = f"Network spec must be a mapping of keys; got {type(spec).__name__}. Correct it."
        raise UserError(msg)
    if spec.get("format") != FORMAT:
        msg = (
            f"Network spec format must be {FORMAT}; got {spec.get('format')!r}. "
            "Update perforated-monai to read it."
        )
        raise UserError(msg)
    if not isinstance(spec.get("base"), Mapping):
        msg = f"Network spec: base must map name and arguments; got {spec.get('base')!r}."
        raise UserError(msg)
