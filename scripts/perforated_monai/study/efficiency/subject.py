"""What is compared: the network of a bundle or of a run folder, and the Dice it reached."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from ...data.reading import read
from ...data.scores import Interval, interval, read_scores
from ...errors import UserError
from ...files import hash_of
from ...networks.build import build_network
from ...networks.weights import load_weights
from ...training.run_folder import RunFolder


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes:
        name: in the table; no path.
        network: plain, in eval mode, on the CPU.
        base: its base in the network spec.
        sets: dendrite sets.
        file_bytes: of its weights.
        window: voxels of the window that its inference uses.
        dice: class -> mean over cases with its 95 % interval.
        cases: case -> mean Dice of its classes, where a table of cases is there.
        scored: on which cases, in words; empty when nothing was scored.
    """

    name: str
    network: nn.Module
    base: dict[str, Any]
    sets: int
    file_bytes: int
    window: tuple[int, ...]
    dice: dict[str, Interval] = field(default_factory=dict)
    cases: dict[str, float] = field(default_factory=dict)
    scored: str = ""

    @property
    def channels(self) -> int:
        return int(self.base["in_channels"])

    @property
    def mean_dice(self) -> Interval | None:
        """Mean of the classes: over cases with its interval, or of the class means alone."""
        if self.cases:
            return interval(list(self.cases.values()))
        if not self.dice:
            return None
        mean = sum(d.mean for d in self.dice.values()) / len(self.dice)
        return Interval(0, mean, None, None, mean, mean)


def read_subject(text: str) -> Subject:
    """``NAME=FOLDER`` or ``FOLDER``: a bundle with exported weights, or a run folder.

    Raises:
        UserError: for a folder that is neither, or a damaged one.
    """
    name, _, folder = text.rpartition("=")
    path = Path(folder).expanduser()
    name = name or path.resolve().name
    if (path / "models" / "network.json").is_file():
        return _bundle(name, path)
    if RunFolder(path).config_file.is_file():
        return _run(name, path)
    msg = (
        f"{folder} must be a bundle with models/network.json or the output_dir of a training; it "
        "is neither. Correct the path, or export the bundle first."
    )
    raise UserError(msg)


def _bundle(name: str, bundle: Path) -> Subject:
    try:
        spec = read(bundle / "models" / "network.json")
        metadata = read(bundle / "configs" / "metadata.json")
        window = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
        window = tuple(int(v) for v in window)
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{bundle} must have models/network.json and configs/metadata.json with the window as "
            f"spatial_shape of whole numbers; reading them gives {type(error).__name__}. Repair it."
        )
        raise UserError(msg) from None
    model = bundle / "models" / "model.pt"
    network = build_network(spec)
    load_weights(network, model, spec.get("model_sha256"))
    dice, cases, scored = _scores(bundle)
    sets = max((int(d["count"]) for d in spec["dendrites"].values()), default=0)
    return Subject(
        *(name, network.eval(), spec["base"], sets, model.stat().st_size, window),
        *(dice, cases, scored),
    )


def _scores(bundle: Path) -> tuple[dict[str, Interval], dict[str, float], str]:
    """Of ``docs/cases.csv``, when it is of the committed weights."""
    scores = read_scores(bundle / "docs")
    model = bundle / "models" / "model.pt"
    if scores is None or scores.about.get("model_sha256") != hash_of(model):
        return {}, {}, ""
    dice = {
        column.removeprefix("dice_"): value
        for column, values in scores.columns.items()
        if column.startswith("dice_") and (value := interval(values)) is not None
    }
    means = {row.case: row.mean("dice_") for row in scores.rows}
    cases = {case: mean for case, mean in means.items() if math.isfinite(mean)}
    about = scores.about
    where = f"{about.get('part', 'cases')} part"
    if about.get("fold") is not None:
        where += f" of inner fold {about['fold']}"
    return dice, cases, f"{len(cases)} cases, {where}"


def _run(name: str, run: Path) -> Subject:
    from ...growth.trained import load_trained, make_spec

    trained = load_trained(run)
    config = RunFolder(run).provenance().config
    spec, network = make_spec(trained)
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    per_class = trained.best.get("dice_per_class") or [trained.best["dice"]]
    dice = {f"class {i}": Interval(0, v, None, None, v, v) for i, v in enumerate(per_class, 1)}
    sets = max((int(d["count"]) for d in spec["dendrites"].values()), default=0)
    fold = config.get("fold")
    where = "" if fold is None else f" of inner fold {fold}"
    scored = f"best validation{where}, no table of cases"
    return Subject(
        *(name, network.eval(), spec["base"], sets, buffer.tell(), _window(config)),
        *(dice, {}, scored),
    )


def _window(config: dict[str, Any]) -> tuple[int, ...]:
    """Of validation; empty for a run of someone else's bundle, which may name it otherwise."""
    key = next((k for k in ("val_roi_size", "roi_size") if k in config), "")
    if not key:
        return ()
    return tuple(int(v) for v in ConfigParser(config).get_parsed_content(key))
