"""Every ``_target_``, ``$`` expression and macro of a bundle's configs, read and never run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from ...networks.makers import FETCHES, is_own
from ...rules import Broken, rule
from .allowed import component, is_own_class, judge_target
from .expressions import DEFAULT_NAMES, REFERENCES, judge, read_import
from .items import Item, items
from .paths import is_place
from .walk import Unpacked

# Arguments that MONAI looks up by name, also outside itself, or that switch a safeguard off.
_LOOKED_UP = ("reader", "writer", "merger_cls")
_SWITCHES = {"weights_only": True, "allow_pickle": False, "_debug_": False, "pickle_module": None}
_CURE = "Read it before you go on"


@rule("targets", "must name components of the allow-list")
def targets(bundle: Unpacked) -> Iterator[Broken]:
    judged: dict[str, str] = {}
    for item in items(bundle):
        if item.key == "_target_":
            text = item.value if isinstance(item.value, str) else repr(item.value)
            reason = judged.setdefault(text, judge_target(text))
            if not reason and (asks := _fetches_by_default(text, item.holder)):
                reason = f"fetches weights unless {asks} is false"
            if reason:
                yield Broken(f"_target_ {text[:100]!r} at {item.id}: {reason}", _CURE, item.file)
        elif item.given and isinstance(item.value, str) and is_own(item.value):
            value = f"{item.value[:100]!r} at {item.id}: a class of the bundle's own code"
            yield Broken(value, _CURE, item.file)
        elif item.key == "spec" and _is_live(item.value):
            yield Broken(f"spec at {item.id}: only known when it runs", _CURE, item.file)
        elif item.key == "_mode_" and not _is_plain_mode(item):
            yield Broken(f"_mode_ {item.value!r} at {item.id}", _CURE, item.file)


@rule("arguments", "must not look up code by name, fetch files or unpickle")
def arguments(bundle: Unpacked) -> Iterator[Broken]:
    for item in items(bundle):
        value = item.value
        if isinstance(value, (dict, list)):
            continue
        if item.key in _LOOKED_UP:
            allowed = value is None or (isinstance(value, str) and is_own_class(value))
        elif item.key in _SWITCHES:
            allowed = value is _SWITCHES[item.key]
        elif item.given and FETCHES.search(item.key):
            allowed = value in (None, False, "", 0)
        else:
            continue
        if not allowed:
            yield Broken(f"{item.key} {str(value)[:100]!r} at {item.id}", _CURE, item.file)


@rule("expressions", "must use names and attributes of the allow-list")
def expressions(bundle: Unpacked) -> Iterator[Broken]:
    live = [i for i in items(bundle) if isinstance(i.value, str) and i.value.startswith("$")]
    names = {name: set(full) for name, full in DEFAULT_NAMES.items()}
    for item in live:
        if read := read_import(item.value[1:]):
            names.setdefault(read[0], set()).add(read[1])
    # MONAI writes keys into relative references, and a macro can move one below any key.
    code_in_keys = any(re.search(r"[(\[{'\"]", item.id) for item in items(bundle))
    for item in live:
        read = read_import(item.value[1:])
        problems = [read[2]] if read else _problems(item, names)
        if code_in_keys and re.search(r"[@%](::|#)", item.value):
            problems = ["a relative reference, while a key holds brackets or quotes"]
        if any(problems):
            value = f"{'; '.join(problems)} in {item.value[:120]!r} at {item.id}"
            yield Broken(value, _CURE, item.file)


@rule("macros", "must be taken from the same config")
def macros(bundle: Unpacked) -> Iterator[Broken]:
    for item in items(bundle):
        if isinstance(item.value, str) and item.value.startswith("%"):
            path, _ = ConfigParser.split_path_id(item.value[1:])
            if path or "/" in item.value or "\\" in item.value:
                yield Broken(f"{item.value[:100]!r} at {item.id}", _CURE, item.file)


@rule("module-references", "must not refer to what a config imports")
def module_references(bundle: Unpacked) -> Iterator[Broken]:
    """A reference to an import gives the module itself, whose functions are not judged then."""
    texts = [
        i for i in items(bundle) if isinstance(i.value, str) and i.value[:1] in ("$", "@", "%")
    ]
    imports = {i.id for i in texts if i.value[0] == "$" and read_import(i.value[1:])}
    # Merging files moves the entries of lists: each entry of such a list counts.
    imports |= {name.rpartition("::")[0] + "::" for name in imports if "::" in name}
    for item in texts:
        for name in sorted(_references(item)):
            if any(_reaches(name, place) for place in imports):
                yield Broken(f"@{name} in {item.value[:100]!r} at {item.id}", _CURE, item.file)


def _is_live(value: Any) -> bool:
    """Whether any part of it is an expression, reference or macro: it may name any class."""
    if isinstance(value, dict):
        return any(map(_is_live, value.values()))
    if isinstance(value, list):
        return any(map(_is_live, value))
    return isinstance(value, str) and value[:1] in ("$", "@", "%")


def _references(item: Item) -> set[str]:
    """IDs that a text refers to or copies, made absolute."""
    try:
        text = ConfigParser.resolve_relative_ids(item.id, item.value)
    except ValueError:
        return {""}  # MONAI refuses it too
    if text.startswith("%"):
        return {ReferenceResolver.normalize_id(text[1:])}
    return set(ReferenceResolver.match_refs_pattern(text))


def _reaches(name: str, place: str) -> bool:
    """Whether an ID is a place, holds it, or is an entry of a place that ends in ``::``."""
    if place.endswith("::"):
        return f"{name}::" == place or name.startswith(place)
    return not name or name == place or place.startswith(f"{name}::")


def _problems(item: Item, names: dict[str, set[str]]) -> list[str]:
    """As MONAI evaluates it: relative references made absolute, then references replaced."""
    try:
        text = ConfigParser.resolve_relative_ids(item.id, item.value)
        references = dict.fromkeys(ReferenceResolver.match_refs_pattern(text))
        text = ReferenceResolver.update_refs_pattern(text, references)
    except ValueError as error:
        return [str(error)]
    if REFERENCES in item.value or not text.startswith("$"):
        return [f"{REFERENCES}, which is MONAI's own"]
    return judge(text[1:], names)


def _is_plain_mode(item: Item) -> bool:
    """A component as it is made by default, or handed over whole where that is harmless."""
    if item.value == "default":
        return True
    target = item.holder.get("_target_")
    if item.value != "callable" or not isinstance(target, str) or judge_target(target):
        return False
    # By position an expression could give it what `arguments` looks for by name.
    return not any(
        name in _LOOKED_UP or name in _SWITCHES or FETCHES.search(name) or is_place(name)
        for name in _parameters(target)
    )


def _fetches_by_default(target: str, holder: dict[str, Any]) -> str:
    """An argument that makes the component fetch weights where the config does not give it."""
    if target.startswith("perforated_monai."):  # fetches nothing, and need not be imported to know
        return ""
    for name, parameter in _parameters(target).items():
        if FETCHES.search(name) and parameter.default is True and name not in holder:
            return name
    return ""


def _parameters(target: str) -> dict[str, inspect.Parameter]:
    if judge_target(target):
        return {}
    try:
        return dict(inspect.signature(component(target)).parameters)
    except (TypeError, ValueError):
        return {}
