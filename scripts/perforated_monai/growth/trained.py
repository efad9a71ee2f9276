"""A run folder -> the network as it was trained, and everything that says where it came from."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..dendrites.config import GONE, DendriteConfig
from ..errors import UserError
from ..networks.build import base_spec, build_network
from ..networks.definition import definition_key, network_definition
from ..networks.spec import plain_spec
from ..training.records import Best, GrowthRecord
from ..training.run_folder import RunFolder
from .folded import folded
from .to_plain import make_plain


@dataclass(frozen=True)
class Trained:
    """The best network of a run.

    ``network`` is in eval mode, with the tracker's own layers where it grew; call it inside
    ``settings()``. ``best`` is the content of ``checkpoints/best.pt``, ``definition`` the id under
    which the bundle defines its network; ``from_overlay``: of someone else's bundle.
    """

    run: RunFolder
    network: nn.Module
    base: dict[str, Any]
    best: Best
    definition: str = "network_def"
    from_overlay: bool = False

    @property
    def growth(self) -> DendriteConfig | None:
        """Settings of its growth; None for a run without."""
        record = self.best["growth"]
        return None if record is None else _recorded(record)

    @property
    def grown(self) -> bool:
        """Whether the run could grow dendrites."""
        return self.growth is not None

    @property
    def activation(self) -> str:
        """Of its dendrites."""
        return "identity" if self.growth is None else self.growth.activation

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """A grown network reads its activation from the library's own settings."""
        if self.growth is None:
            yield
            return
        from .library import forward_settings

        with forward_settings(self.growth):
            yield

    def record(self) -> dict[str, Any]:
        """What ``network.json`` says about the training."""
        made = self.run.provenance()
        events = self.run.history()
        growth = self.best["growth"]
        return {
            "best_epoch": self.best["epoch"],
            "epochs": sum(e["event"] == "epoch" for e in events),
            "validation_dice": self.best["dice"],
            "validation_metric": self.best.get("metric", "Dice"),
            "validation_dice_per_class": self.best["dice_per_class"],
            "structure_history": [e for e in events if e["event"] in ("grow", "accept", "reject")],
            "dendrites": growth["config"] if growth else None,
            "versions": made.versions,
            "manifest_sha256": made.manifest_sha256,
            "generator": made.generator,
            "fold": made.config.get("fold"),
            "test_fold": made.config.get("test_fold"),  # a study keeps it from the training
            "seed": made.config.get("seed"),
        }


def load_trained(run: str | Path) -> Trained:
    """Rebuild the best network of a run folder made by ``RunHandler``.

    Raises:
        UserError: for a folder of something else, a run without a validation, a damaged or foreign
            checkpoint.
    """
    folder = RunFolder(run)
    config = folder.provenance().config
    best = folder.checkpoints.load_best()
    if best is None:
        msg = f"{run} never reached a validation: it has no checkpoints/best.pt. Train longer."
        raise UserError(msg)
    definition = definition_key(config)
    base = base_spec(network_definition(config, definition))
    network = build_network(plain_spec(base))
    growth = best["growth"]
    if growth is None:
        _load_plain(network, best["network"], folder.path)
    else:
        _load_grown(network, best, growth, folder.path)
    return Trained(folder, network.eval(), base, best, definition, "perforated_overlay" in config)


def _load_plain(network: nn.Module, state: dict[str, Any], run: Path) -> None:
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(_misfit(run, error)) from None


def _load_grown(network: nn.Module, best: Best, growth: GrowthRecord, run: Path) -> None:
    from .tracker import Tracker

    with tempfile.TemporaryDirectory() as folder:
        config = _recorded(growth)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training said which layers do not grow
            tracker = Tracker(network, config, folder, layers=growth["layers"])
        left_out = growth.get("left_out", [])
        chosen = [n for n in tracker.candidates if n in tracker.layers]
        every = [n for n in tracker.candidates if n not in left_out]
        # Until November 2026 a probe could choose some of the layers.
        some = growth["config"].get("layers", "all") != "all"
        if (chosen if some else every) != tracker.layers:
            msg = f"{run}: the run grew other layers than its config.json names: cannot rebuild it."
            raise UserError(msg)
        tracker.open()
        try:
            tracker.load_network(best["network"])
        except (RuntimeError, KeyError, UserError) as error:
            raise UserError(_misfit(run, error)) from None
        finally:
            tracker.close()


def _recorded(growth: GrowthRecord) -> DendriteConfig:
    """The settings of a run that grew."""
    # Runs of November 2026 recorded kind copy beside sets, where it then said nothing.
    config = {k: v for k, v in growth["config"].items() if k not in GONE}
    return DendriteConfig.from_dict(config | ({"kind": None} if config.get("sets") else {}))


def _misfit(run: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"checkpoints/best.pt of {run} is not of the network its config.json names: {reason}"


def make_spec(trained: Trained) -> tuple[dict[str, Any], nn.Module]:
    """Network spec of a trained network, and the plain network built from it, with its weights.

    Masked branches are gone from both (``fold.py``).
    """
    plain = copy.deepcopy(trained.network)
    counts = make_plain(plain, trained.activation) if trained.grown else {}
    return folded(trained.base, plain.eval(), counts)
