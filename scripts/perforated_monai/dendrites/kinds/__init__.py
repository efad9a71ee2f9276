"""The kinds of dendrites: one file a kind, and this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..kind import Kind
from .apical import Apical
from .copies import Copy
from .depthwise import Depthwise
from .distal import Distal
from .grouped import Grouped
from .low_rank import LowRank
from .pointwise import Pointwise

# In the order in which messages and overlays name them.
KINDS: dict[str, type[Kind]] = {
    kind.name: kind for kind in (Copy, Depthwise, Pointwise, Grouped, LowRank, Distal, Apical)
}
# Kinds that no study shows to pay (studies/older_kinds.yaml). Configs and overlays do not offer
# them; networks and studies that have them work as before.
OLDER = ("depthwise", "pointwise", "grouped", "low_rank")
OFFERED = [name for name in KINDS if name not in OLDER]
SETTINGS = {s.name: s for kind in KINDS.values() for s in kind.settings()}
# What an entry of a spec holds beside count, kind and activation.
ENTRY = {f.name: f for kind in KINDS.values() for f in fields(kind)}


def owners(setting: str) -> str:
    """The kinds that a setting belongs to, for messages."""
    names = [n for n, kind in KINDS.items() if setting in (f.name for f in fields(kind))]
    return f"kind {names[0]}" if len(names) == 1 else f"kinds {', '.join(names)}"


def kind_of_entry(entry: Mapping[str, Any]) -> Kind:
    """The kind of a layer's entry in a network spec; one without ``kind`` is a copy.

    Raises:
        ValueError: for an unknown kind, or a setting that is missing, wrong or not the kind's.
    """
    name = entry.get("kind", "copy")
    if not isinstance(name, str) or name not in KINDS:
        msg = f"kind must be one of {', '.join(KINDS)}; got {name!r}."
        raise ValueError(msg)
    own = [f.name for f in fields(KINDS[name])]
    for key, setting in ENTRY.items():
        value = entry.get(key)
        if key not in own and value is not None:
            msg = f"{key} belongs to {owners(key)}; got {key} {value!r} with kind {name}."
            raise ValueError(msg)
        if key in own and not (value and setting.metadata["holds"](value)):
            rule = setting.metadata["rule"].replace(">= 0", ">= 1")
            msg = f"kind {name} needs {key}, {rule}; got {value!r}."
            raise ValueError(msg)
    return KINDS[name](**{key: entry[key] for key in own})
