"""Layers that take no part in training: found in the first epochs, left out, and named.

A network may hold layers that no forward pass reaches (the head of an encoder that was made for
classification), or whose output no loss depends on. Dendrites learn by the gradient that comes
through their layer, so these cannot grow, and the tracker stops its process for them.
"""

from __future__ import annotations

from typing import Any

from ..dendrites.wrapped import has_learned, unwrapped
from ..errors import UserError
from ..training import distributed
from ..training.run_handler import RunHandler
from .tracker import Tracker

_SHOWN = 5


class SilentLayers:
    """Which layers of a run are left out of growth.

    Order of use: ``look`` once there is a first score, before the tracker is given it;
    ``restore`` in a resumed run, before the tracker's state is loaded.

    Args:
        run: the run.
        tracker: its tracker.
    """

    def __init__(self, run: RunHandler, tracker: Tracker) -> None:
        self.run, self.tracker = run, tracker
        self.names: list[str] | None = None

    def look(self) -> list[str]:
        """Leave out what has seen no gradient so far; names them once, at the first call.

        Raises:
            UserError: when no layer is left.
        """
        if self.names is not None:
            return []
        modules = self.tracker.modules()
        names = distributed.from_main(lambda: [n for n, m in modules if not has_learned(m)])
        self.names = names
        if not names:
            return []
        if len(names) == len(modules):
            msg = (
                f"None of the {len(modules)} layers chosen to grow takes part in training: no "
                "gradient comes through them. Choose others with layer_names."
            )
            raise UserError(msg)
        self.tracker.leave_out(names)
        self.run.distribute()
        self.run.log("leave_out", layers=names)
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        self.run.say(
            f"{len(names)} of {len(modules)} layers take no part in training and do not grow: "
            f"{shown}"
        )
        return names

    def restore(self, names: Any) -> None:
        """Leave out again what a checkpoint of this run had left out."""
        self.names = names
        if names:
            self.tracker.leave_out(names)

    def rename_best(self, left: list[str]) -> None:
        """``best.pt`` was saved with the layers wrapped that are left out now."""
        if not self.run.is_main:
            return
        best = self.run.checkpoints.load_best()
        if best is not None and best["growth"] is not None:
            growth = best["growth"].copy()
            growth["layers"] = list(self.tracker.layers)
            if self.run.growth is not None:
                growth["left_out"] = self.run.growth.describe().get("left_out", [])
            network = unwrapped(best["network"], left)
            self.run.checkpoints.save_best(best | {"network": network, "growth": growth})
