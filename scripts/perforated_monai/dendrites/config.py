"""What to grow and when: ``DendriteConfig``, frozen, validated, to and from JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .formula import ACTIVATIONS
from .kind import Kind
from .kinds import KINDS, OFFERED, SETTINGS, owners
from .kinds.sited import SitedKind

INITIALISATIONS = ("normal", "layer")
# A probe once chose the layers that grow. Places made no difference (studies/places.yaml), so it is
# gone; files from before it was hold what asked for every layer.
GONE = {"layers": "all", "auto_layers": 0, "parameter_budget": 0, "probe_batches": None}
SWITCH_RULES = ("history", "fixed")


def knob(default: Any, note: str) -> Any:
    """A setting with its default and the comment that stands beside it in an overlay."""
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"note": note})
    return field(default=default, metadata={"note": note})


# The settings of all kinds are fields of the configuration: the table of kinds says which.
_OfKinds: Any = dataclasses.make_dataclass(
    "_OfKinds",
    [(s.name, Any, field(default=s.default)) for s in SETTINGS.values()],
    frozen=True,
)


@dataclass(frozen=True)
class DendriteConfig(_OfKinds):
    """Settings of growth, in the field's words; the tracker's own names stand in brackets.

    Args:
        patience: validations without a new best score before dendrites are added
            (``n_epochs_to_switch``).
        switch: ``"history"`` grows after ``patience``; ``"fixed"`` every ``patience`` validations.
        improvement_threshold: relative gain that counts as a new best, as a list indexed by the
            dendrite sets already added; the last entry holds for all later ones. 0.001 asks
            0.880 -> 0.8809.
        improvement_threshold_raw: absolute gain (Dice, 0 to 1) that is needed as well.
        max_dendrites: dendrite sets at the most; a set is one dendrite beside each grown layer.
        tries: sets tried at one step before growth ends (``max_dendrite_tries``).
        kind: what a dendrite is, one of ``kinds.KINDS``: ``distal``, ``apical``, a ``copy`` of its
            layer, or one of ``kinds.OLDER``, which no study shows to pay. A layer that has no
            dendrite of the kind stays as it is, with a warning; a layer named in full is refused.
            The settings of the kinds (``hidden``, ``kernel``, …) are settings here as well; each
            belongs to its kind. A kind that is given stands in for ``sets``, which is then empty;
            None is ``copy`` where there are no sets.
        sets: what one set is made of, when it mixes kinds: a list such as ``[{kind: distal}, {kind:
            apical, hidden: 4}]``. A part has its kind, that kind's settings, and ``layers`` (shell
            patterns over module names), ``layer_types`` and ``exclude`` of its own; no two parts
            may take one layer.
        activation: non-linearity f of the sum, one of ``sigmoid``, ``tanh``, ``relu``,
            ``identity``. ``"kind"`` takes what suits: ``identity`` for kinds with a non-linearity
            inside (distal, apical), ``relu`` for the others; a mix of both must name it.
        initialisation: ``"normal"`` draws every dendrite weight from N(0, scale²) (the library's
            way); ``"layer"`` calls the layer's own ``reset_parameters`` and multiplies by scale.
            Dendrites of two convolutions need ``"layer"``: N(0, 0.01²) twice leaves no signal.
        scale: see ``initialisation``; 0.01 is the library's default.
        layer_types: class names of the layers that grow, such as ``Conv3d`` or ``Convolution``.
        layer_names: shell patterns over module names; a layer grows when one matches.
        exclude: shell patterns over module names that never grow.
        lr_restart: after growth the learning-rate schedule starts again; otherwise it goes on.
        freeze_base: train the dendrites alone; the network that training starts from stays as it
            is, bit for bit. The first validation scores it, then the first set is added.
        verbose: let the library's own printing through.

    Raises:
        UserError: for an unknown setting, a wrong type or a value out of range.
    """

    switch: str = knob("history", 'grow when the score stops; "fixed": every patience')
    patience: int = knob(10, "validations{every} without a new best before a set is added")
    max_dendrites: int = knob(3, "sets at the most; one adds {cost}")
    tries: int = knob(2, "sets drawn at one step before growth ends for good")
    improvement_threshold: list[float] = knob([0.001, 0.0001, 0.0], "relative gain, by sets there")
    improvement_threshold_raw: float = knob(1e-5, "and this much of the score (0 to 1)")
    sets: list[dict[str, Any]] = knob([], "what one set is made of, each part with its kind")
    kind: str | None = knob(None, f"instead of sets, one kind: {', '.join(OFFERED)}")
    activation: str = knob("sigmoid", f"f: kind, what suits it; or {', '.join(ACTIVATIONS)}")
    initialisation: str = knob("normal", "the layer's own; or normal, N(0, scale²)")
    scale: float = knob(0.01, "with normal use 0.01")
    layer_types: list[str] = knob(
        ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d"],
        "class names of layers",
    )
    layer_names: list[str] = knob(["*"], "shell patterns over module names")
    exclude: list[str] = knob([], "likewise")
    lr_restart: bool = knob(True, "the learning-rate schedule starts again after growth")
    freeze_base: bool = knob(
        False, "dendrites alone train; the network they grow on stays bit for bit"
    )
    verbose: bool = knob(False, "let the tracker's own printing through")

    def __post_init__(self) -> None:
        for name in ("patience", "max_dendrites", "tries"):
            _whole(name, getattr(self, name), least=1)
        _list("sets", self.sets, (dict,), "parts, each with its kind", empty=True)
        if self.kind is not None:
            _choice("kind", self.kind, list(KINDS))
            object.__setattr__(self, "sets", [])
        elif not self.sets:
            object.__setattr__(self, "kind", "copy")
        if self.sets:
            self._expect_parts()
        own = [s.name for s in KINDS[self.kind].settings()] if self.kind else []
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            if not setting.metadata["holds"](value):
                msg = f"{name} must be {setting.metadata['rule']}; got {value!r}."
                raise UserError(msg)
            if name not in own and value != setting.default:
                msg = f"{name} belongs to {owners(name)}; got {name} with kind {self.kind!r}."
                raise UserError(msg)
        if self.activation == "kind":
            object.__setattr__(self, "activation", self._activation())
        if not self.sets:
            self._expect_kind()
        _choice("switch", self.switch, SWITCH_RULES)
        _choice("activation", self.activation, ACTIVATIONS)
        _choice("initialisation", self.initialisation, INITIALISATIONS)
        _number("improvement_threshold_raw", self.improvement_threshold_raw, low=0.0, high=1.0)
        _number("scale", self.scale, low=1e-8, high=100.0)
        _list("improvement_threshold", self.improvement_threshold, (int, float), "numbers")
        for value in self.improvement_threshold:
            _number("improvement_threshold", value, low=0.0, high=1.0)
        _list("layer_types", self.layer_types, (str,), "class names")
        _list("layer_names", self.layer_names, (str,), "patterns")
        _list("exclude", self.exclude, (str,), "patterns", empty=True)
        for name in ("lr_restart", "freeze_base", "verbose"):
            if not isinstance(getattr(self, name), bool):
                msg = f"{name} must be true or false; got {getattr(self, name)!r}."
                raise UserError(msg)

    def _expect_kind(self) -> None:
        try:
            assert self.dendrite is not None  # its class checks the settings
        except ValueError as error:
            raise UserError(str(error)) from None

    def _activation(self) -> str:
        """What the kinds take when nobody names one."""
        kinds = [part["kind"] for part in self.sets] or [self.kind]
        inside = [issubclass(KINDS[str(kind)], SitedKind) for kind in kinds]
        if any(inside) != all(inside):
            msg = (
                f"activation must be named for sets of kinds {', '.join(map(str, kinds))}: distal "
                "and apical take identity, since they have a non-linearity inside, and the others "
                "relu."
            )
            raise UserError(msg)
        return "identity" if all(inside) else "relu"

    def _expect_parts(self) -> None:
        beside = [n for n in (*SETTINGS, "layer_names") if getattr(self, n) != _DEFAULTS[n]]
        if beside:
            msg = (
                f"{beside[0]} belongs to one kind, and sets mix kinds: give it in a part of sets "
                "(layer_names as layers there), or name one kind instead of sets (kind: copy)."
            )
            raise UserError(msg)
        for i, part in enumerate(self.sets):
            wrong = [key for key in part if key not in _PART]
            if wrong or "kind" not in part:
                got = f"{wrong[0]!r}" if wrong else "none"
                msg = f"sets, part {i + 1}: a part has kind and {', '.join(_PART[1:])}; got {got}."
                raise UserError(msg)
        for part in self.parts:  # each is a configuration of one kind, and checks itself
            assert not part.sets

    @property
    def parts(self) -> tuple[DendriteConfig, ...]:
        """The configurations of the kinds in one set, each of one kind; itself for one kind."""
        if not self.sets:
            return (self,)
        common = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        common |= {n: _DEFAULTS[n] for n in ("sets", "layer_types", "layer_names")}
        made = []
        for part in self.sets:
            own = {
                ("layer_names" if key == "layers" else key): value for key, value in part.items()
            }
            made.append(DendriteConfig(**{**common, **own}))
        return tuple(made)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DendriteConfig:
        """Build from a mapping such as the overlay's ``config``; unknown names are refused."""
        names = [f.name for f in dataclasses.fields(cls)]
        for key, every in GONE.items():
            if key in values and every is not None and values[key] != every:
                msg = (
                    f"{key} {values[key]!r}: layers are no longer chosen by a probe or at random, "
                    f"for it made no difference. Take {key} out, or name layers in layer_names."
                )
                raise UserError(msg)
        values = {key: value for key, value in values.items() if key not in GONE}
        for key in values:
            if key not in names:
                close = difflib.get_close_matches(key, names, n=1) or names
                msg = f"{key!r} is no dendrite setting. Did you mean: {', '.join(close)}?"
                raise UserError(msg)
        return cls(**values)

    @classmethod
    def knobs(cls) -> list[dataclasses.Field[Any]]:
        """What an overlay shows, in its order: settings of offered kinds stand behind ``kind``."""
        own = [f for f in dataclasses.fields(cls) if f.name not in SETTINGS]
        behind = [f.name for f in own].index("kind") + 1
        offered = {s.name for name in OFFERED for s in KINDS[name].settings()}
        return [*own[:behind], *(s for n, s in SETTINGS.items() if n in offered), *own[behind:]]

    @property
    def dendrite(self) -> Kind:
        """The kind of dendrite that is asked for, where ``sets`` does not mix several.

        Raises:
            UserError: with ``sets``.
        """
        if self.sets:
            msg = "sets mix kinds, and one kind is needed here: give kind instead."
            raise UserError(msg)
        kind = KINDS[str(self.kind)]
        return kind(**{s.name: getattr(self, s.name) for s in kind.settings()})

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain Python values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """All settings as sorted JSON; ``from_dict(json.loads(...))`` gives an equal config."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)


_DEFAULTS: dict[str, Any] = {
    f.name: f.default_factory() if callable(f.default_factory) else f.default
    for f in dataclasses.fields(DendriteConfig)
}
_PART = ("kind", "layers", "layer_types", "exclude", *SETTINGS)


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        hint = " For training without dendrites leave the overlay out." if least == 1 else ""
        msg = f"{name} must be a whole number >= {least}; got {value!r}.{hint}"
        raise UserError(msg)


def _number(name: str, value: Any, low: float, high: float) -> None:
    right_type = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not right_type or not math.isfinite(value) or not low <= value <= high:
        msg = f"{name} must be a number from {low:g} to {high:g}; got {value!r}."
        raise UserError(msg)


def _choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        msg = f"{name} must be one of {', '.join(allowed)}; got {value!r}."
        raise UserError(msg)


def _list(name: str, value: Any, types: tuple[type, ...], what: str, empty: bool = False) -> None:
    # A tuple is refused as the library does: it would be indexed as one value there.
    if not isinstance(value, list) or not all(isinstance(v, types) for v in value):
        msg = f"{name} must be a list of {what}; got {value!r}. Write it in square brackets."
        raise UserError(msg)
    if not value and not empty:
        msg = f"{name} must name at least one entry; got an empty list."
        raise UserError(msg)
