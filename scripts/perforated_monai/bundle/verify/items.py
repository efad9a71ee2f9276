"""Every value of the configs of a bundle, with its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .walk import Unpacked


@dataclass(frozen=True)
class Item:
    """One value of a config.

    Attributes:
        id: its place, as MONAI writes it: ``train::dataset::_target_``.
        key: the last part of that.
        holder: the mapping it stands in.
        given: whether it is, or is part of, an argument of a component, or may become one.
    """

    file: str
    id: str
    key: str
    value: Any
    holder: dict[str, Any]
    given: bool = False


def items(bundle: Unpacked) -> Iterator[Item]:
    """Every value of every config, mappings and lists included."""
    for file, content in bundle.configs.items():
        todo: list[Item] = [Item(file, "", "", content, {})]
        while todo:
            item = todo.pop()
            if item.id:
                yield item
            inner = item.value
            if isinstance(inner, (dict, list)):
                pairs = list(inner.items() if isinstance(inner, dict) else enumerate(inner))
                for key, value in reversed(pairs):
                    name = str(key).removeprefix("+").replace("#", "::")
                    place = f"{item.id}::{name}" if item.id else name
                    last = name.rpartition("::")[2]
                    # A list's entries answer to the argument that the list is for.
                    last = item.key if isinstance(inner, list) else last
                    holder = inner if isinstance(inner, dict) else item.holder
                    given = item.given or "_target_" in holder or "::" in name
                    todo.append(Item(file, place, last, value, holder, given))
