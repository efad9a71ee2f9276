"""What is known of one trial: the record behind ``result.json`` and a row of ``trials.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.scores import CaseRow, finite_mean
from .trial import Trial

Status = Literal["done", "same", "failed"]
Event = dict[str, Any]  # one line of a run's history

# Metric -> how its columns begin.
PREFIX = {"dice": "dice_", "hd95": "hd95_mm_", "nsd": "nsd_"}
SCORES = tuple(PREFIX.values())


@dataclass(frozen=True)
class Environment:
    """With which code, packages and data, and on which device, a trial ran."""

    commit: str
    device: str
    manifest_sha256: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Measurement:
    """What a trial gave that was trained and tested.

    Attributes:
        epochs, best_epoch: trained, and the one whose network was tested.
        validation_dice: of that network, on the cases that chose it.
        sets: dendrite sets in it.
        grow_epochs: epochs after which a set was added.
        scores: column of the table of test cases -> mean over cases.
        parameters, flops, file_bytes, latency_ms, peak_memory_mib: what the network costs, see
            ``handlers.record``.
        cpu_minutes: of the whole process.
        seconds: wall clock of the epochs.
        energy_joule: of the device, where it has a meter.
        channels: of the base network, where it has channels.
    """

    epochs: int
    best_epoch: int
    validation_dice: float
    sets: int
    grow_epochs: list[int]
    scores: Mapping[str, float]
    parameters: int
    flops: int
    file_bytes: int
    latency_ms: float
    peak_memory_mib: float | None
    cpu_minutes: float
    seconds: float
    energy_joule: float | None
    channels: list[int] | None
    environment: Environment

    @property
    def train_minutes(self) -> float:
        """Wall clock of the epochs."""
        return round(self.seconds / 60, 3)

    def mean_dice(self) -> float:
        """Mean of the classes."""
        values = [v for column, v in self.scores.items() if column.startswith("dice_")]
        return sum(values) / len(values)


@dataclass(frozen=True)
class TrialRow:
    """One trial and what became of it.

    Attributes:
        trial: which.
        status: ``done``; ``same`` where it had nothing to differ by from another arm; ``failed``.
        measured: of a trial that is done.
        reason: why it failed.
        same_as: the arm that stands for it.
        chosen: what a sweep chose for it.
    """

    trial: Trial
    status: Status
    measured: Measurement | None = None
    reason: str = ""
    same_as: str = ""
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether it need not be run again."""
        return self.status != "failed"

    def to_json(self) -> dict[str, Any]:
        """The content of ``result.json``, without the study's name and protocol."""
        trial = self.trial
        facts: dict[str, Any] = {
            "network": trial.network,
            "arm": trial.arm,
            "fold": trial.fold,
            "seed": trial.seed,
            "status": self.status,
        }
        if self.measured is None:
            named = {"reason": self.reason, "same_as": self.same_as}
            return facts | {key: value for key, value in named.items() if value}
        m, made = self.measured, self.measured.environment
        return facts | {
            "epochs": m.epochs,
            "best_epoch": m.best_epoch,
            "validation_dice": m.validation_dice,
            "sets": m.sets,
            "grow_epochs": m.grow_epochs,
            **m.scores,
            "parameters": m.parameters,
            "flops": m.flops,
            "file_bytes": m.file_bytes,
            "latency_ms": m.latency_ms,
            "peak_memory_mib": m.peak_memory_mib,
            "device": made.device,
            "cpu_minutes": m.cpu_minutes,
            "train_minutes": m.train_minutes,
            "energy_joule": m.energy_joule,
            "channels": m.channels,
            "commit": made.commit,
            "versions": dict(made.versions),
            "manifest_sha256": made.manifest_sha256,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], chosen: Mapping[str, Any]) -> TrialRow:
        """Of the content of ``result.json`` and ``sweep.json``.

        Raises:
            KeyError, TypeError, ValueError: where a key is missing or holds something else.
        """
        named = (facts[key] for key in ("network", "arm", "fold", "seed"))
        trial, status = Trial(*named), facts["status"]
        if status == "same":
            return cls(trial, "same", same_as=str(facts["same_as"]), chosen=chosen)
        if status == "failed":
            return cls(trial, "failed", reason=str(facts["reason"]), chosen=chosen)
        if status != "done":
            msg = f"status is {status!r}"
            raise ValueError(msg)
        return cls(trial, "done", _measurement(facts), chosen=chosen)


def _measurement(facts: Mapping[str, Any]) -> Measurement:
    return Measurement(
        epochs=facts["epochs"],
        best_epoch=facts["best_epoch"],
        validation_dice=facts["validation_dice"],
        sets=facts["sets"],
        grow_epochs=facts["grow_epochs"],
        scores={column: v for column, v in facts.items() if column.startswith(SCORES)},
        parameters=facts["parameters"],
        flops=facts["flops"],
        file_bytes=facts["file_bytes"],
        latency_ms=facts["latency_ms"],
        peak_memory_mib=facts["peak_memory_mib"],
        cpu_minutes=facts["cpu_minutes"],
        # Minutes have three decimals in the file: hundredths of seconds give them again exactly.
        seconds=round(60 * facts["train_minutes"], 2),
        energy_joule=facts["energy_joule"],
        channels=facts["channels"],
        environment=Environment(
            facts["commit"], facts["device"], facts["manifest_sha256"], facts["versions"]
        ),
    )


def means(cases: Sequence[CaseRow]) -> dict[str, float]:
    """Mean over cases of every column; empty and infinite cells are left out."""
    return {name: round(finite_mean(r.values[name] for r in cases), 6) for name in cases[0].values}
