"""The words of a command line, read as they were typed before fire sees them.

Fire guesses: ``scans #2`` becomes ``scans``, ``2025_01_31`` a number, ``1.10`` the name ``1.1``,
``out,1`` a tuple, and ``--flag false`` the text "false", which is true. Here the annotation of a
command's parameter decides. What is handed on to fire are literals, which it reads back exactly.

* ``str``: the word itself, whatever it is.
* ``bool``: ``--flag``, ``--noflag``, ``--flag=true`` or ``--flag=false``; never the word behind it.
* ``int`` and ``float``: a finite number, within the ``Limits`` that the annotation names.
* ``list[str]``: the words of a flag that may be given several times.
* ``*names``: every word that no flag takes.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..errors import UsageError

_NOT_OF_A_FLAG = {"true", "false", "yes", "no", "on", "off", "none", "0", "1"}
_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_HELP = ("--help", "-h")


@dataclass(frozen=True)
class Limits:
    """What a number must keep within, both ends included unless they are said to be open."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def hold(self, value: float) -> bool:
        """Whether a number keeps within them."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f" above {self.low:,}" if self.open_low else f" of {self.low:,} or more"
        return f" from {self.low:,} to {'below ' * self.open_high}{self.high:,}"


Count = Annotated[int, Limits(1)]
Rounds = Annotated[int, Limits(2)]
Cases = Annotated[int, Limits(1, 100_000)]
Seed = Annotated[int, Limits(0, 2**32 - 1)]
Share = Annotated[float, Limits(0, 1, open_high=True)]
Positive = Annotated[float, Limits(0, open_low=True)]


@dataclass(frozen=True)
class _Parameter:
    """A parameter of a command: what its words must be."""

    name: str
    kind: type
    limits: Limits | None
    required: bool
    many: bool
    repeated: bool

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


@dataclass
class _Given:
    """What was read so far."""

    values: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


def canonical(name: str, command: Callable[..., Any], words: list[str]) -> list[str]:
    """The words behind a command's name, so that fire reads them as they were typed.

    Args:
        name: of the command, for messages.
        command: its function; the annotations say what each parameter is.
        words: as the shell gave them. Behind ``--`` no word is a flag.

    Returns:
        words with each value as a Python literal; ``["--help"]`` where help is asked for.

    Raises:
        UsageError: for an unknown, repeated or missing argument, or a value that is none of its
            kind; one line with flag, value and rule.
    """
    parameters = _parameters(command)
    given = _read(name, parameters, words)
    if given is None:
        return ["--help"]
    rest = _placed(name, parameters, given)
    missing = [p.name for p in parameters.values() if p.required and p.name not in given.values]
    if missing:
        msg = f"{name} needs {' and '.join(missing)}. {name} --help says what each is."
        raise UsageError(msg)
    flags = [f"--{key}={_literal(value)}" for key, value in given.values.items()]
    return [*map(_literal, rest), *flags]


def _parameters(command: Callable[..., Any]) -> dict[str, _Parameter]:
    found = {}
    for name, p in inspect.signature(command, eval_str=True).parameters.items():
        kind, limits = _kind(p.annotation)
        many = p.kind is p.VAR_POSITIONAL
        required = p.default is p.empty and not many
        repeated = p.annotation == list[str]
        found[name] = _Parameter(name, kind, limits, required, many, repeated)
    return found


def _kind(annotation: Any) -> tuple[type, Limits | None]:
    """The type that an annotation names, without ``| None``, and its limits."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        (annotation,) = (a for a in typing.get_args(annotation) if a is not type(None))
    limits = None
    if typing.get_origin(annotation) is Annotated:
        annotation, limits = typing.get_args(annotation)
    return (annotation if annotation in (bool, int, float) else str), limits


def _read(name: str, parameters: dict[str, _Parameter], words: list[str]) -> _Given | None:
    """Flags by name, and the words that belong to none; None where help is asked for."""
    given, todo = _Given(), list(words)
    while todo:
        word = todo.pop(0)
        _refuse_unusable(name, word)
        if word == "--":
            if todo and all(word in _HELP for word in todo):  # fire's own way to ask
                return None
            for word in todo:
                _refuse_unusable(name, word)
            given.words += todo
            break
        if word in _HELP:
            return None
        if not re.match(r"--?[A-Za-z]", word):
            if word.startswith("--"):
                raise UsageError(f"{name} has no flag {word!r}.")
            given.words.append(word)
            continue
        key, value = _flag(name, parameters, word, todo)
        if parameters[key].repeated:
            given.values.setdefault(key, []).append(value)
            continue
        if key in given.values:
            msg = f"{name} was given --{key.replace('_', '-')} twice. Give it once."
            raise UsageError(msg)
        given.values[key] = value
    return given


def _flag(
    name: str, parameters: dict[str, _Parameter], word: str, todo: list[str]
) -> tuple[str, Any]:
    """A flag's parameter and value; takes the value from ``todo`` where no ``=`` gives it."""
    text, equals, value = word.partition("=")
    key = text.lstrip("-").replace("-", "_")
    parameter, off = _named(parameters, key, short=not text.startswith("--"))
    if parameter is None:
        known = [p.name for p in parameters.values() if not p.many]
        close = difflib.get_close_matches(key, known, n=1) or known
        flags = ", ".join("--" + c for c in close) or "none"
        cure = "" if text.startswith("--") else f" A name that begins so is written ./{word}."
        raise UsageError(f"{name} has no flag {text}. Known: {flags}.{cure}")
    if equals and not value:
        msg = f"{name} was given an empty argument for {text}: it would mean the current folder."
        raise UsageError(msg)
    if parameter.kind is bool:
        return parameter.name, _truth(name, parameter, off, value, bool(equals), todo)
    if not equals:
        if not todo or re.match(r"--?[A-Za-z]|--$", todo[0]):
            behind = f"; {todo[0]} is a flag" if todo else ""
            msg = f"{name} {text} needs a value{behind}. Write {text}=VALUE."
            raise UsageError(msg)
        value = todo.pop(0)
        _refuse_unusable(name, value)
    return parameter.name, _value(name, parameter, value)


def _named(
    parameters: dict[str, _Parameter], key: str, short: bool
) -> tuple[_Parameter | None, bool]:
    """The parameter that a flag names, and whether it is its ``--no`` form."""
    named = {k: p for k, p in parameters.items() if not p.many}
    if key in named:
        return named[key], False
    if short and len(key) == 1:  # fire's own: -w, where one parameter begins so
        begin = [p for k, p in named.items() if k[0] == key]
        return (begin[0] if len(begin) == 1 else None), False
    positive = named.get(key[2:].removeprefix("_")) if key.startswith("no") else None
    return (positive, True) if positive and positive.kind is bool else (None, False)


def _truth(
    name: str, parameter: _Parameter, off: bool, value: str, given: bool, todo: list[str]
) -> bool:
    flag = parameter.flag
    if given and (off or value.lower() not in ("true", "false")):
        shown = f"{flag}={value}" if not off else f"--no{flag[2:]}={value}"
    elif not given and todo and todo[0].lower() in _NOT_OF_A_FLAG:
        shown = f"{flag} {todo[0]}"
    else:
        return value.lower() == "true" if given else not off
    msg = (
        f"{name} takes {flag}, --no{flag[2:]}, {flag}=true or {flag}=false; got {shown!r}. "
        "A file or folder of such a name is written ./NAME."
    )
    raise UsageError(msg)


def _value(name: str, parameter: _Parameter, word: str) -> Any:
    """A word as the type of its parameter."""
    if parameter.kind is str:
        return word
    whole = parameter.kind is int
    rule = f"a {'whole ' * whole}number{parameter.limits or ''}"
    usable = (_WHOLE if whole else _NUMBER).fullmatch(word)
    value = parameter.kind(word) if usable else math.nan
    within = parameter.limits is None or parameter.limits.hold(value)
    if not usable or not within or value in (math.inf, -math.inf):
        shown = repr(word if len(word) <= 60 else word[:60] + "…")
        raise UsageError(f"{name} {parameter.flag} must be {rule}; got {shown}. Correct it.")
    return value


def _placed(name: str, parameters: dict[str, _Parameter], given: _Given) -> list[str]:
    """Give words without a flag to their parameters; what is over belongs to ``*names``."""
    if any(p.many for p in parameters.values()):
        return given.words
    asked = [p for p in parameters.values() if p.required] or [*parameters.values()][:1]
    free = [p for p in asked if p.name not in given.values]
    if len(given.words) > len(free):
        takes = ", ".join(p.name for p in asked) or "no word"
        over = given.words[len(free)]
        msg = (
            f"{name} takes {takes}, and flags; got {over!r} as well. Quote a name that holds "
            "blanks, and give everything else by its flag."
        )
        raise UsageError(msg)
    for parameter, word in zip(free, given.words, strict=False):
        if parameter.kind is bool:
            raise UsageError(f"{name} {parameter.flag} is a flag; got {word!r} for it.")
        value = _value(name, parameter, word)
        given.values[parameter.name] = [value] if parameter.repeated else value
    return []


def _refuse_unusable(name: str, word: str) -> None:
    if word == "":
        msg = f"{name} was given an empty argument, which would stand for the current folder."
        raise UsageError(msg)
    if "\0" in word:
        raise UsageError(f"{name} was given {word!r}: no name holds a NUL. Correct it.")


def _literal(value: Any) -> str:
    """A Python literal of it in ASCII: fire gives it back as it is."""
    return ascii(value)
