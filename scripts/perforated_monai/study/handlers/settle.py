"""``GrowAndSettle``: a dendritic run that uses its whole budget of epochs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...dendrites.wrapped import train_dendrites
from ...growth.handler import DendriteHandler
from ...training.optimizer import assert_complete
from ...training.run_handler import RunHandler


class GrowAndSettle(DendriteHandler):
    """``DendriteHandler`` that trains on where the tracker has finished.

    All arms of a study train the same number of epochs, so the end of growth must not end the run:
    the network is back at its best, optimizer and schedule start again (a ``settle`` event, which
    the controls repeat), and what follows is plain training of the structure that was kept.

    Arguments are those of ``DendriteHandler``.
    """

    _settled = False

    def __call__(self, trainer: Any) -> None:
        """Give this epoch's score to the tracker until growth has ended."""
        if not self._settled:
            super().__call__(trainer)

    def accepts(self, score: float) -> bool:
        """After the end of growth every better score counts."""
        return self._settled or super().accepts(score)

    def state_dict(self) -> dict[str, Any]:
        """State of the tracker, of the set on trial and of the end of growth."""
        return super().state_dict() | {"settled": self._settled}

    def load_state_dict(self, state: dict[str, Any], network: dict[str, Tensor]) -> None:
        """Continue from ``state_dict`` and the grown network's own state dict."""
        super().load_state_dict(state, network)
        self._settled = state["settled"]
        if self._settled:
            train_dendrites(self.tracker.network)

    def _growth_ended(self, trainer: Any) -> None:
        """Train on, where ``DendriteHandler`` ends the run."""
        self._settled = True
        run: RunHandler = self.run
        train_dendrites(self.tracker.network)  # the library's last load froze them
        trainable = self.tracker.trainable()
        run.refresh(trainable, restart=self.config.lr_restart)
        assert_complete(run.optimizer, trainable)
        run.log("settle", to_epoch=run.best_epoch, dice=run.best_score, sets=self.tracker.sets)
        run.say(f"growth has ended with {self.tracker.sets} dendrite sets; training goes on")
