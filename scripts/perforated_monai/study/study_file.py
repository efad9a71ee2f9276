"""Study files: which networks, arms, seeds and folds are compared, read and checked as data."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..bundle.configs import load_configs
from ..bundle.overrides import is_known_key
from ..data.reading import from_yaml, read_text, reason_of
from ..data.schema import FOLDS
from ..dendrites.config import DendriteConfig
from ..errors import UserError
from .arms import ARMS, DEPENDENT, network_files, networks_of, variant_config
from .sweep_space import check_sweep

FORMAT = 1
METRICS = ("dice", "hd95", "nsd")

# What may grow later without making other results of what is there.
_GROWS = ("title", "note", "arms", "seeds", "folds", "networks", "sweep", "compare", "across")


@dataclass(frozen=True)
class Study:
    """One study; ``docs`` of the keys stand in README, section "Study".

    Attributes:
        file: where it was read from; ``bundles/<name>/studies/<study>.yaml``.
        bundle: folder name of the bundle beside whose ``studies`` folder the file lies.
        networks: names, see ``arms.networks_of``.
        arms: of ``arms.ARMS``, and names of ``variants``.
        seeds: run seeds; every arm is run with each.
        folds: inner folds whose validation part is the test set.
        budget: ``{"epochs": total epochs of every arm}``.
        metrics: of ``METRICS``; the first is dice and gives the verdict.
        settings: keys of the bundle's train.json with the values that all arms share.
        plain_settings: keys of train.json that the arms without growth and restarts
            (``arms.PLAIN``) have otherwise, such as one whole learning-rate cycle.
        growth: settings of ``DendriteConfig`` that all growing arms share.
        variants: growing arms of the study's own: name -> settings of ``DendriteConfig`` on top of
            ``growth``; listed in ``arms`` by their names.
        compare: pairs ``[arm, control]`` that the report compares beside the usual ones.
        per_network: network -> ``arms``, the only ones that it has, and ``settings`` on top of the
            study's.
        across: comparisons across networks, ``{arm: network/arm, against: network/arm, within:
            how much lower the Dice may be}``.
        sweep: number of trials and space of a search, see ``sweep_space.py``.
        title, note: for the report.
    """

    file: Path
    format: int
    bundle: str
    networks: list[str]
    arms: list[str]
    seeds: list[int]
    folds: list[int]
    budget: dict[str, int]
    metrics: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    plain_settings: dict[str, Any] = field(default_factory=dict)
    growth: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    compare: list[list[str]] = field(default_factory=list)
    per_network: dict[str, dict[str, Any]] = field(default_factory=dict)
    across: list[dict[str, Any]] = field(default_factory=list)
    sweep: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def bundle_root(self) -> Path:
        return self.file.resolve().parents[1]

    @property
    def epochs(self) -> int:
        return self.budget["epochs"]

    def arms_of(self, network: str) -> list[str]:
        """The arms that a network has, in the study's order."""
        own = self.per_network.get(network, {}).get("arms", self.arms)
        return [arm for arm in self.arms if arm in own]

    def settings_of(self, network: str) -> dict[str, Any]:
        """What a network has otherwise than the study's settings."""
        return dict(self.per_network.get(network, {}).get("settings", {}))

    @cached_property
    def protocol(self) -> str:
        """Hash of everything that makes a trial what it is; seeds, folds and arms may be added."""
        content = dataclasses.asdict(self)
        for name in ("variants", "plain_settings", "per_network"):
            if not content[name]:  # studies without them keep the hash of their results
                del content[name]
        kept = {k: v for k, v in content.items() if k not in (*_GROWS, "file")}
        text = json.dumps(kept, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_study(file: str | Path) -> Study:
    """Read and check a study file.

    Raises:
        UserError: no such file, no YAML mapping, or an unknown key, arm, metric, network or value;
            nothing has been trained then.
    """
    path = Path(file)
    try:
        data = from_yaml(read_text(path))
    except OSError as error:
        msg = f"study file {path} cannot be read ({error.strerror}). Give bundles/*/studies/*.yaml."
        raise UserError(msg) from None
    except ValueError as error:
        msg = f"study file {path} is no YAML: {reason_of(error)}. Correct it."
        raise UserError(msg) from None
    if not isinstance(data, dict):
        msg = f"study file {path} must be a mapping of keys; got {type(data).__name__}."
        raise UserError(msg)
    names = [f.name for f in dataclasses.fields(Study) if f.name != "file"]
    _known(path, "keys", data, names)
    missing = [k for k in _WITHOUT_DEFAULT if k not in data]
    if missing:
        msg = f"study file {path} must have {', '.join(missing)}. Add the missing keys."
        raise UserError(msg)
    study = Study(file=path, **data)
    _check(study)
    return study


_OF_ARMS = ("activation", "initialisation", "scale")
_WITHOUT_DEFAULT = ["format", "bundle", "networks", "arms", "seeds", "folds", "budget", "metrics"]


def _check(study: Study) -> None:
    path = study.file
    if study.format != FORMAT:
        msg = f"{path}: format must be {FORMAT}; got {study.format!r}. Write it for this version."
        raise UserError(msg)
    root = study.bundle_root
    if root.name != study.bundle or not (root / "configs" / "train.json").is_file():
        msg = (
            f"{path}: bundle must be the folder that holds studies/, with configs/train.json; got "
            f"{study.bundle!r} in {root.name}. Move the file to bundles/<bundle>/studies/."
        )
        raise UserError(msg)
    _names(path, "networks", study.networks, networks_of(root))
    _check_variants(study)
    _names(path, "arms", study.arms, [*ARMS, *study.variants])
    _check_pairs(study)
    _check_networks(study)
    _names(path, "metrics", study.metrics, METRICS)
    if study.metrics[0] != "dice":
        first = study.metrics[0]
        msg = f"{path}: the first of metrics gives the verdict and must be dice; got {first!r}."
        raise UserError(msg)
    _whole_numbers(path, "seeds", study.seeds, 2**31)
    _whole_numbers(path, "folds", study.folds, FOLDS)
    epochs = study.budget.get("epochs") if isinstance(study.budget, dict) else None
    if type(epochs) is not int or epochs < 1 or len(study.budget) > 1:
        msg = f"{path}: budget must be {{epochs: N}} with N >= 1; got {study.budget!r}."
        raise UserError(msg)
    dependent = [arm for arm in study.arms if arm in DEPENDENT]
    if dependent and "dendrites" not in study.arms:
        msg = f"{path}: arm {dependent[0]} follows the arm dendrites: add it to arms."
        raise UserError(msg)
    for name in ("settings", "plain_settings", "growth", "sweep"):
        if not isinstance(getattr(study, name), dict):
            msg = f"{path}: {name} must be a mapping; got {getattr(study, name)!r}."
            raise UserError(msg)
    _check_settings(study, root)
    check_sweep(path, study.sweep)
    own = [k for k in _OF_ARMS if k in study.growth]
    owned = ["freeze_base"] if "freeze_base" in study.growth else []
    if not study.sweep and (0 < len(own) < len(_OF_ARMS) or "dendrites_init" in study.arms):
        owned += own
    if owned:
        msg = (
            f"{path}: growth cannot hold {owned[0]}: the arms set it. Take it out, or give all of "
            f"{', '.join(_OF_ARMS)} in a study without the arm dendrites_init."
        )
        raise UserError(msg)
    DendriteConfig.from_dict(study.growth)


def _check_variants(study: Study) -> None:
    path, variants = study.file, study.variants
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        msg = f"{path}: variants must map names to settings of dendrites; got {variants!r}."
        raise UserError(msg)
    for name, settings in variants.items():
        if name in ARMS or not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
            msg = (
                f"{path}: a variant needs a name of its own from a-z, 0-9 and _; got {name!r}. "
                f"Taken are {', '.join(ARMS)}."
            )
            raise UserError(msg)
        growth = study.growth if isinstance(study.growth, dict) else {}
        try:
            DendriteConfig.from_dict(variant_config(growth, settings))
        except UserError as error:
            msg = f"{path}: variants: {name}: {error}"
            raise UserError(msg) from None


def _check_pairs(study: Study) -> None:
    for pair in study.compare if isinstance(study.compare, list) else [None]:
        right = isinstance(pair, list) and len(pair) == 2
        if not right or any(arm not in study.arms for arm in pair) or pair[0] == pair[1]:
            msg = (
                f"{study.file}: compare must be a list of pairs [arm, control] of two of its arms "
                f"({', '.join(study.arms)}); got {pair!r}."
            )
            raise UserError(msg)


def _check_networks(study: Study) -> None:
    path = study.file
    if not isinstance(study.per_network, dict) or not isinstance(study.across, list):
        msg = f"{path}: per_network must be a mapping and across a list. Correct them."
        raise UserError(msg)
    _known(path, "networks", study.per_network, study.networks)
    for network, own in study.per_network.items():
        if not isinstance(own, dict) or not isinstance(own.get("settings", {}), dict):
            msg = f"{path}: per_network: {network} must map arms and settings; got {own!r}."
            raise UserError(msg)
        _known(path, "keys", own, ["arms", "settings"])
        _names(path, "arms", own.get("arms", study.arms), study.arms)
    cells = [f"{n}/{arm}" for n in study.networks for arm in study.arms_of(n)]
    for entry in study.across:
        keys = {"arm", "against"}
        if not isinstance(entry, dict) or not keys <= entry.keys() <= keys | {"within"}:
            msg = f"{path}: across has entries {{arm, against, within}}; got {entry!r}."
            raise UserError(msg)
        _known(path, "networks and arms", [entry["arm"], entry["against"]], cells)
        within = entry.get("within", 0.0)
        if type(within) not in (int, float) or not 0 <= within < 1:
            msg = f"{path}: across: within is a Dice from 0 to below 1; got {within!r}."
            raise UserError(msg)


def _check_settings(study: Study, root: Path) -> None:
    owned = ("seed", "fold", "test_fold", "epochs", "output_dir", "dataset_dir", "bundle_root")
    for network in study.networks:
        files = network_files(root, network)
        config = dict(ConfigParser(load_configs([str(f) for f in files])).get())
        for key in [*study.settings, *study.plain_settings, *study.settings_of(network)]:
            name = str(key).replace("#", "::")
            if name in owned:
                msg = f"{study.file}: settings cannot hold {key}: the study sets it. Take it out."
                raise UserError(msg)
            if not is_known_key(config, name):
                close = difflib.get_close_matches(name, list(config), n=3) or ["see train.json"]
                msg = (
                    f"{study.file}: settings: {key} is no key of {root.name}/configs: "
                    f"{' and '.join(f.name for f in files)}. Did you mean: {', '.join(close)}?"
                )
                raise UserError(msg)
    parser = ConfigParser(load_configs([str(root / "configs" / "train.json")]))
    parser.update({str(key): value for key, value in study.settings.items()})
    distances = [name for name in ("hd95", "nsd") if name in study.metrics]
    for pixdim in _spacings(parser.get()):
        # MONAI's Ignite metrics get no spacing: they count voxels.
        if distances and any(value != 1 for value in pixdim):
            msg = (
                f"{study.file}: {distances[0]} is in mm only where the bundle resamples to voxels "
                f"of 1 mm; got Spacingd pixdim {pixdim}. Take {' and '.join(distances)} out."
            )
            raise UserError(msg)


def _spacings(value: Any) -> Iterator[list[Any]]:
    """``pixdim`` of every Spacingd in a part of a configuration."""
    if isinstance(value, dict):
        if str(value.get("_target_", "")).endswith("Spacingd"):
            pixdim = value.get("pixdim", 1)
            yield list(pixdim) if isinstance(pixdim, (list, tuple)) else [pixdim]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _spacings(item)


def _names(path: Path, key: str, values: Any, allowed: Iterable[str]) -> None:
    if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
        msg = f"{path}: {key} must be a list of distinct names, at least one; got {values!r}."
        raise UserError(msg)
    _known(path, key, values, list(allowed))


def _known(path: Path, what: str, values: Iterable[Any], allowed: list[str]) -> None:
    for value in values:
        if value not in allowed:
            close = difflib.get_close_matches(str(value), allowed, n=1) or allowed
            msg = (
                f"{path}: {value!r} is none of the known {what}. Did you mean: {', '.join(close)}?"
            )
            raise UserError(msg)


def _whole_numbers(path: Path, key: str, values: Any, below: int) -> None:
    right = isinstance(values, list) and all(type(v) is int and 0 <= v < below for v in values)
    if not right or not values or len(set(values)) < len(values):
        msg = (
            f"{path}: {key} must be a list of distinct whole numbers from 0 to {below - 1}, at "
            f"least one; got {values!r}."
        )
        raise UserError(msg)
