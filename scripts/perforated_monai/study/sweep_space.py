"""What a sweep searches: names, ranges, and what a choice means for a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dendrites.config import INITIALISATIONS
from ..dendrites.formula import ACTIVATIONS
from ..dendrites.kinds import KINDS
from ..errors import UserError

# Name -> type of its values. `layers` are patterns over layer names, several with spaces.
NAMES: dict[str, type] = {
    "dendrites": int,  # sets at the most; 0 trains the plain network
    "learning_rate": float,
    "patience": int,
    "improvement_threshold": float,
    "activation": str,
    "initialisation": str,
    "scale": float,
    "kind": str,
    "layers": str,
}
_KEYS = ("trials", "space", "prune_after_epochs")


@dataclass(frozen=True)
class Choice:
    """What a sweep has chosen for one trial.

    Attributes:
        settings: keys of train.json with their values.
        growth: settings of growth; None trains the plain network.
    """

    settings: dict[str, Any]
    growth: dict[str, Any] | None


def check_sweep(path: Path, sweep: Mapping[str, Any]) -> None:
    """Refuse what no search could use.

    ``trials`` is the number of trials; ``space`` maps a name to a list of choices or to
    ``{low, high}`` with ``log: true`` where wanted; ``prune_after_epochs`` (default 10) is the
    epoch from which a trial below the median of the others is stopped, 0 for never.

    Raises:
        UserError: naming the file and the key.
    """
    if not sweep:
        return
    unknown = [k for k in sweep if k not in _KEYS]
    space = sweep.get("space")
    if unknown or not isinstance(space, dict) or not space:
        shown = f"{unknown[0]!r} is none of them" if unknown else f"space is {space!r}"
        msg = f"{path}: sweep must have {', '.join(_KEYS[:2])} and may have {_KEYS[2]}; {shown}."
        raise UserError(msg)
    for key, least in (("trials", 1), ("prune_after_epochs", 0)):
        value = sweep.get(key, 10)
        if type(value) is not int or value < least:
            msg = f"{path}: sweep: {key} must be a whole number >= {least}; got {value!r}."
            raise UserError(msg)
    if "trials" not in sweep:
        msg = f"{path}: sweep must have trials, the number of them. Add it."
        raise UserError(msg)
    for name, values in space.items():
        _check_values(path, name, values)


def choose(trial: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """Ask an Optuna trial for a value of every name."""
    chosen: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, list):
            chosen[name] = trial.suggest_categorical(name, values)
        elif NAMES[name] is int:
            chosen[name] = trial.suggest_int(name, values["low"], values["high"])
        else:
            log = bool(values.get("log", False))
            chosen[name] = trial.suggest_float(name, values["low"], values["high"], log=log)
    return chosen


def as_choice(values: Mapping[str, Any], growth: Mapping[str, Any]) -> Choice:
    """What chosen values mean for a training; the study's growth settings fill the rest."""
    config = dict(growth)
    for name in ("patience", "activation", "initialisation", "scale", "kind"):
        if name in values:
            config[name] = values[name]
    if "improvement_threshold" in values:
        config["improvement_threshold"] = [values["improvement_threshold"]]
    if "layers" in values:
        config["layer_names"] = str(values["layers"]).split()
    sets = values.get("dendrites", config.get("max_dendrites", 1))
    settings = {k: values[k] for k in ("learning_rate",) if k in values}
    if sets == 0:
        return Choice(settings, None)
    return Choice(settings, config | {"max_dendrites": sets})


def _check_values(path: Path, name: str, values: Any) -> None:
    if name not in NAMES:
        msg = f"{path}: sweep: {name!r} is none of {', '.join(NAMES)}. Correct the name."
        raise UserError(msg)
    kind = NAMES[name]
    known = {
        "activation": ACTIVATIONS,
        "initialisation": INITIALISATIONS,
        "kind": KINDS,
    }.get(name)
    given = values if isinstance(values, list) else [_low(values), _high(values)]
    right = bool(given) and all(_is(kind, v) and (known is None or v in known) for v in given)
    if isinstance(values, dict):
        right = right and kind is not str and set(values) <= {"low", "high", "log"}
        right = right and given[0] < given[1]
    if not right or not isinstance(values, (list, dict)):
        allowed = f"of {', '.join(known)}" if known else f"of {kind.__name__}"
        msg = (
            f"{path}: sweep: {name} must be a list {allowed}, or {{low, high}} with low below high "
            f"for numbers; got {values!r}."
        )
        raise UserError(msg)


def _low(values: Any) -> Any:
    return values.get("low") if isinstance(values, dict) else None


def _high(values: Any) -> Any:
    return values.get("high") if isinstance(values, dict) else None


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind
