"""``logging.conf``: Python evaluates its classes and arguments, so only plain ones are let in."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator

from ...rules import Broken, rule
from .walk import Unpacked

HANDLERS = ("StreamHandler", "NullHandler", "FileHandler")
FORMATTERS = ("Formatter",)
_STREAMS = ("sys.stdout", "sys.stderr")


@rule("logging", "must write text to the console or a file of the current folder")
def logging_conf(bundle: Unpacked) -> Iterator[Broken]:
    for path in bundle.sizes:
        if not path.lower().endswith((".conf", ".ini", ".cfg")):
            continue
        parser = configparser.RawConfigParser()
        try:
            parser.read_string((bundle.root / path).read_text(encoding="utf-8"))
        except (configparser.Error, UnicodeDecodeError) as error:
            yield Broken(" ".join(str(error).split())[:200], "Refused", path)
            continue
        # A value under DEFAULT counts in every section.
        for section in [configparser.DEFAULTSECT, *parser.sections()]:
            for key, value in dict(parser[section]).items():
                if reason := _problem(section, key, value.strip()):
                    yield Broken(f"{reason} under [{section}]", "Refused", path)


def _problem(section: str, key: str, value: str) -> str:
    if key == "class":
        known = FORMATTERS if section.startswith("formatter") else HANDLERS
        if section == configparser.DEFAULTSECT or value.removeprefix("logging.") not in known:
            return f"class {value[:80]!r}"
    elif key in ("args", "kwargs"):
        if not _is_harmless(value):
            return f"{key} {value[:80]!r}"
    elif key in ("style", "defaults", "validate") and value not in ("%", "{", "$", ""):
        return f"{key} {value[:80]!r}"
    return ""


def _is_harmless(value: str) -> bool:
    """Streams, words and numbers; a file name without folders."""
    if not value:
        return True
    for stream in _STREAMS:
        value = re.sub(rf"\b{re.escape(stream)}\b", "None", value)
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False
    values = literal.values() if isinstance(literal, dict) else literal
    if not isinstance(literal, (tuple, dict)):
        return False
    return all(
        v is None
        or isinstance(v, (int, float, bool))
        or (isinstance(v, str) and re.fullmatch(r"[\w-][\w.-]{0,60}", v) is not None)
        for v in values
    )
