"""``Growth``: what may change the network's structure during a run."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from .records import Checkpoint, GrowthRecord


class Growth(Protocol):
    """Five questions that ``RunHandler`` asks; ``DendriteHandler`` answers them by the tracker."""

    def open(self, run: Any, saved: Checkpoint | None) -> None:
        """Make the network ready to grow, or as it was in a checkpoint of this run.

        Args:
            run: the ``RunHandler``; its network and optimizer change in place.
            saved: where the run stands; None at its start.
        """

    def accepts(self, score: float) -> bool:
        """Whether a network with this score may be the run's best."""

    def describe(self) -> GrowthRecord:
        """The structure now, as export needs it."""

    def state_dict(self) -> dict[str, Any]:
        """What ``open`` needs to go on, beside the network's own tensors."""

    def close(self, best: dict[str, Tensor] | None = None) -> None:
        """Give the process its own settings back; twice is once.

        Args:
            best: state dict of the run's best network, which the network becomes first, as a plain
                one.
        """
