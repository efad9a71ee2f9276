"""The configuration behind a running bundle: what was merged, and keys that exist nowhere."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser

from ..errors import UserError, is_bundle_run
from .configs import load_configs
from .ids import has, value_of
from .last_line import say_cause_last
from .streams import forgive


def guard_command_line() -> None:
    """First entry of ``run``: refuse mistyped keys; let the last line of an error say its cause.

    Standard streams that nobody reads any more do not end the run.

    Acts under ``python -m monai.bundle run`` only; a client with a command line of its own is left
    alone. MONAI wraps every exception of an expression, so the cause would stand far above the
    last line.

    Raises:
        UserError: naming an override that no configuration file knows.
    """
    if is_bundle_run(sys.argv):
        forgive()
        say_cause_last()
        check_overrides(sys.argv[2:])


def check_overrides(arguments: list[str]) -> None:
    """Refuse command-line overrides that no configuration file knows.

    MONAI adds an unknown ``--key`` as a new entry without a word.

    Args:
        arguments: the command line behind ``run``.

    Raises:
        UserError: naming the key and the nearest known ones.
    """
    options = _options(arguments)
    files = options.pop("config_file", None)
    if files is None:
        return
    config = ConfigParser(load_configs(_file_list(files)))
    from monai.bundle.scripts import run

    own = set(inspect.signature(run).parameters)
    for key in options:
        name = key.lstrip("+").replace("#", "::")
        if key not in own and name not in own and not is_known_key(config.get(), name):
            raise UserError(_unknown(config, key, name))


def _options(arguments: list[str]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` as fire reads them: one dash will do, - counts as _."""
    options: dict[str, str] = {}
    for i, word in enumerate(arguments):
        if not re.match("--|-[a-zA-Z]", word):
            continue
        key, equals, value = word.lstrip("-").partition("=")
        if not equals:
            value = arguments[i + 1] if i + 1 < len(arguments) else ""
        options[key.replace("-", "_")] = value
    return options


def _file_list(text: str) -> list[str]:
    return [part.strip().strip("'\"") for part in text.strip().strip("[]").split(",")]


def is_known_key(config: dict[str, Any], name: str) -> bool:
    """Whether a key exists, or is an argument that its component would take."""
    if has(config, name):
        return True
    parent, _, argument = name.rpartition("::")
    holder = value_of(config, parent)
    if not isinstance(holder, dict) or "_target_" not in holder:
        return False
    if argument.startswith("_"):
        return argument in ("_disabled_", "_requires_", "_mode_", "_desc_", "_target_")
    taken = _arguments(holder)
    return taken is None or argument in taken


def _arguments(holder: dict[str, Any]) -> list[str] | None:
    """What a component takes by name; None where that is anything, or unknown here."""
    item = _component(str(holder["_target_"]))
    try:
        parameters = inspect.signature(item).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # not imported yet, or written in C
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]


def _component(target: str) -> Any | None:
    modules = monai_modules(target)
    if modules:
        return getattr(sys.modules.get(modules[0]), target, None)
    package, _, name = target.rpartition(".")
    return getattr(sys.modules.get(package), name, None)


def monai_modules(name: str) -> list[str]:
    """Modules of MONAI that define a class or function of that short name; it takes the first."""
    modules = _locator().get_component_module_name(name)
    return [modules] if isinstance(modules, str) else list(modules or [])


@functools.cache
def _locator() -> ComponentLocator:
    """The answer is kept, because the search goes through all of MONAI."""
    return ComponentLocator()


def _unknown(config: ConfigParser, key: str, name: str) -> str:
    parent, _, last = name.rpartition("::")
    names = list(_ids(config.get()))
    elsewhere = [n for n in names if n.rpartition("::")[2] == last]
    if parent and parent in config and isinstance(config[parent], dict):
        holder = config[parent]
        more = (_arguments(holder) or []) if "_target_" in holder else []
        names = [f"{parent}::{k}" for k in [*holder, *more]]
    close = dict.fromkeys(difflib.get_close_matches(name, dict.fromkeys(names), n=3) + elsewhere)
    shown = list(close)[:3] or sorted(config.get())[:8]
    return f"--{key} is no key of the configuration. Did you mean: {', '.join(shown)}?"


def _ids(value: Any, prefix: str = "") -> Iterator[str]:
    """Every key below a value, as it is written on the command line."""
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    else:
        items = enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield f"{prefix}{key}"
        yield from _ids(inner, f"{prefix}{key}::")
