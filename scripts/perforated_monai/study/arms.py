"""The arms of a study, as what each lays over the bundle's own training configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# In the order in which a seed's trials run: what others follow comes first.
ARMS = (
    *("dendrites", "dendrites_init", "base", "base_long", "wide", "wide_long", "wide_flops"),
    *("wide_time", "deeper", "from_start", "branch"),
)
# Arms that are a plain network of another size, to match what the arm `dendrites` became.
SIZED = ("wide", "wide_long", "wide_flops", "wide_time", "deeper")
# Arms that read what the arm `dendrites` of the same network, fold and seed did.
DEPENDENT = ("base_long", *SIZED, "from_start", "branch")
# Arms that restart optimizer and learning rate where the arm `dendrites` grew.
RESTARTED = ("base_long", "wide_long", "from_start")
# Arms that neither grow nor restart: a study may give them another schedule, `plain_settings`.
PLAIN = ("base", "wide", "wide_flops", "wide_time", "deeper")

WHAT = {
    "base": "the plain network",
    "base_long": "the plain network, learning rate and optimizer restarted where dendrites grew",
    "wide": "a wider plain network with the parameters of the dendritic one (within 2 %)",
    "wide_flops": "a wider plain network with the FLOPs of the dendritic one (within 2 %)",
    "wide_long": "the same as wide, restarted where dendrites grew",
    "wide_time": "a wider plain network that takes at least the CPU time of the dendritic one",
    "deeper": "a plain network of one more level, with the parameters of the dendritic one",
    "from_start": "the same dendrites from the first epoch on, restarted where dendrites grew",
    "branch": "ordinary parallel convolutions at the same layers and epochs (no non-linearity)",
    "dendrites": "dendrites as the tracker makes them (sigmoid, N(0, 0.01²))",
    "dendrites_init": "dendrites with the layers' own initialisation and tanh",
}

_DENDRITES = {
    "dendrites": {"activation": "sigmoid", "initialisation": "normal", "scale": 0.01},
    "dendrites_init": {"activation": "tanh", "initialisation": "layer", "scale": 1.0},
}


def networks_of(bundle_root: Path) -> list[str]:
    """Networks that a study may name.

    ``full`` is train.json as it is; the name of an overlay that changes ``base_network_def`` is
    that overlay; ``width4``, ``width8``, ``width16`` are UNets of three levels without residual
    units with so many channels in the first; ``res4``, ``res8`` have two residual units a level,
    so that there are 13 layers to choose from.
    """
    overlays = [
        f.stem
        for f in sorted((bundle_root / "configs").glob("*.yaml"))
        if re.search(r"^base_network_def", f.read_text(encoding="utf-8"), re.M)
    ]
    return ["full", *overlays, *(f"width{n}" for n in (4, 8, 16)), "res4", "res8"]


def network_files(bundle_root: Path, network: str) -> list[Path]:
    """Configuration files of a network, in the order in which they are merged."""
    configs = bundle_root / "configs"
    overlay = configs / f"{network}.yaml"
    return [configs / "train.json", *([overlay] if overlay.is_file() else [])]


def network_settings(network: str) -> dict[str, Any]:
    """What a rung of the width ladder overrides; nothing for other networks."""
    ladder = re.fullmatch(r"(width|res)(\d+)", network)
    if ladder is None:
        return {}
    first = int(ladder[2])
    return {
        "base_network_def::channels": [first, 2 * first, 4 * first],
        "base_network_def::strides": [2, 2],
        "base_network_def::num_res_units": 0 if ladder[1] == "width" else 2,
    }


def growth_config(arm: str, growth: dict[str, Any]) -> dict[str, Any]:
    """Settings of ``DendriteConfig`` of a growing arm: the arm's own, with the study's on top."""
    return {**_DENDRITES.get(arm, _DENDRITES["dendrites"]), **growth}


def arm_text(arm: str, growth: dict[str, Any]) -> str:
    """What an arm is, for a report."""
    if arm == "dendrites" and "activation" in growth:
        sets = growth.get("sets") or [{"kind": growth.get("kind", "copy")}]
        kinds = " and ".join(str(part["kind"]) for part in sets)
        return f"dendrites of kind {kinds}, grown by the tracker"
    return WHAT[arm]


def variant_config(growth: dict[str, Any], variant: dict[str, Any]) -> dict[str, Any]:
    """Settings of ``DendriteConfig`` of an arm that the study file defines itself.

    Ordinary initialisation and ReLU, unless the variant says otherwise: the library's own dendrites
    give those of two convolutions no signal.
    """
    return {"activation": "relu", "initialisation": "layer", "scale": 1.0, **growth, **variant}


def variant_text(variant: dict[str, Any]) -> str:
    """What a variant is, for a report."""
    settings = ", ".join(f"{key} {value}" for key, value in variant.items())
    return f"dendrites with {settings or 'the settings of growth'} (own arm of this study)"


def arm_settings(arm: str, growth: dict[str, Any], leader: Leader | None) -> dict[str, Any]:
    """What an arm adds to the configuration; ``wide`` and ``wide_flops`` add channels elsewhere.

    Args:
        arm: one of ``ARMS``.
        growth: the study's growth settings.
        leader: what the dendritic trial did; needed by the arms of ``DEPENDENT``.
    """
    if arm in _DENDRITES:
        return grow_settings(growth_config(arm, growth))
    if arm == "base" or leader is None:
        return {}
    if arm in RESTARTED:
        epochs = sorted({*leader.grow_epochs, *leader.settle_epochs})
        return _handler("perforated_monai.study.handlers.restart.RestartHandler", epochs=epochs)
    if arm == "branch":
        return _handler(
            "perforated_monai.study.handlers.branch.BranchHandler",
            evaluator="@validate::evaluator",
            config=growth_config(arm, growth),
            grow_epochs=leader.grow_epochs,
            settle_epochs=leader.settle_epochs,
        )
    return {}


def grow_settings(config: dict[str, Any]) -> dict[str, Any]:
    """What makes a training grow dendrites and use its whole budget."""
    return _handler(
        "perforated_monai.study.handlers.settle.GrowAndSettle",
        evaluator="@validate::evaluator",
        config=config,
    )


@dataclass(frozen=True)
class Leader:
    """What the dendritic trial of a seed did, from its results.

    Attributes:
        grow_epochs, settle_epochs: epochs after which a set was added, or growth ended.
        sets: dendrite sets in its final network.
        parameters, flops: of its final network.
    """

    grow_epochs: list[int]
    settle_epochs: list[int]
    sets: int
    parameters: int
    flops: int

    @classmethod
    def of(cls, history: list[dict[str, Any]], sets: int, parameters: int, flops: int) -> Leader:
        """From the events of its training, and its final network."""
        epochs: dict[str, list[int]] = {
            kind: [int(e["epoch"]) for e in history if e["event"] == kind]
            for kind in ("grow", "settle")
        }
        return cls(epochs["grow"], epochs["settle"], sets, parameters, flops)

    def same_as_base(self, arm: str) -> bool:
        """Whether an arm has nothing to differ by: nothing grew, or nothing was accepted."""
        if arm in (*SIZED, "from_start"):
            return self.sets == 0
        return not self.grow_epochs and not self.settle_epochs


def _handler(target: str, **arguments: Any) -> dict[str, Any]:
    return {"+train::handlers": [{"_target_": target, **arguments}]}
