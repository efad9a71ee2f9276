"""What the checkpoints of a run hold, by name and type."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from torch import Tensor


class GrowthRecord(TypedDict):
    """What export needs of a grown network beside its weights.

    Attributes:
        sets: sets in the network.
        layers: names of the layers that grow, in the base network.
        config: settings of growth, as ``DendriteConfig.to_dict`` has them.
        parameters: of the network as it would be exported.
        base_sha256: of the frozen network that the sets stand beside; None without ``freeze_base``.
        left_out: layers that took no part in training, and do not grow.
        kind: of growth that is not the tracker's own (the control arm of a study).
    """

    sets: int
    layers: list[str]
    config: dict[str, Any]
    parameters: int
    base_sha256: NotRequired[str | None]
    left_out: NotRequired[list[str]]
    kind: NotRequired[str]


class Best(TypedDict):
    """``checkpoints/best.pt``: the network with the best validation Dice of an accepted structure.

    Attributes:
        epoch: of the trainer, from 1.
        dice: the score, in [0, 1]: mean Dice, or the metric that ``metric`` names.
        metric: ``Dice``, or the metric's own name; missing in files of earlier versions.
        dice_per_class: mean of each foreground class, where the metric tells.
        network: state dict as it trains, with the tracker's own names where it grew.
        growth: None for a run without growth.
    """

    epoch: int
    dice: float
    metric: NotRequired[str]
    dice_per_class: list[float] | None
    network: dict[str, Tensor]
    growth: GrowthRecord | None


class Checkpoint(TypedDict):
    """``checkpoints/epoch_NNNN.pt``: everything that an exact continuation needs.

    Attributes:
        epoch, iteration: of the trainer; both done.
        finished: the run came to its end.
        processes: that trained together.
        network: state dict as it trains.
        growth: state of growth, None for a run without.
        optimizer, lr_scheduler, scaler: their state dicts, None where there is none.
        best_score, best_epoch: of ``best.pt``.
        history_bytes: of ``history.jsonl`` at that moment.
    """

    epoch: int
    iteration: int
    finished: bool
    processes: int
    network: dict[str, Tensor]
    growth: dict[str, Any] | None
    optimizer: dict[str, Any]
    lr_scheduler: dict[str, Any] | None
    scaler: dict[str, Any] | None
    best_score: float
    best_epoch: int
    history_bytes: int
