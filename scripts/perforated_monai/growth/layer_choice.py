"""``LayerChoice``: ``layers: auto`` and ``random`` in a run, made once, before the first growth.

The choice waits until the tracker decides to grow, because what a layer lacks shows in a trained
network, not in a random one. That first decision is taken back: the network as it grew is made
plain again, which gives the best network so far; the probe ranks its layers; the chosen ones alone
are wrapped anew; and the same score is given once more to the same state of the tracker. Choosing
every layer is growing everywhere, bit for bit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..dendrites.config import DendriteConfig
from ..dendrites.ranking import choose_layers, costs_of, growing
from ..dendrites.wrapped import unwrapped
from ..files import atomic, write_json
from ..training.run_handler import RunHandler
from .layer_probe import DRAWS, expected_gains, trainer_loss, training_batches
from .tracker import Tracker


class LayerChoice:
    """Which layers of a run grow.

    Order of use: make it before the tracker opens (it checks the settings); ``before`` each score
    while ``open``; ``make`` when the first set has been added; ``restore`` in a resumed run.

    Args:
        run: the run; its trainer gives loss and batches.
        tracker: not opened yet.
        config: settings of growth.

    Raises:
        UserError: for a budget or number of layers that cannot be met, or a trainer without a loss.
    """

    def __init__(self, run: RunHandler, tracker: Tracker, config: DendriteConfig) -> None:
        self.run, self.tracker, self.config = run, tracker, config
        self.record: dict[str, Any] | None = None
        self._costs: dict[str, int] = {}
        if config.layers != "all":
            self._costs = costs_of(run.network, tracker.layers, config)
        if config.layers == "auto":
            trainer_loss(run.trainer, run.network)

    @property
    def open(self) -> bool:
        """Whether a choice is still to be made."""
        return self.config.layers != "all" and self.record is None

    def before(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """State of tracker and network before a score is given."""
        network = {k: v.detach().clone() for k, v in self.tracker.network.state_dict().items()}
        return self.tracker.state_dict(), network

    def make(self, state: dict[str, Any], network: dict[str, Tensor]) -> None:
        """Rank, choose, write, and take the tracker back to ``before``, with the chosen layers."""
        names = list(self.tracker.layers)
        self.tracker.unwrap()
        gains = self._gains(self.tracker.network, names) if self.config.layers == "auto" else None
        costs = {name: self._costs[name] for name in names}
        record = choose_layers(costs, gains, self.config, self.run.seed)
        record |= {"epoch": self.run.trainer.state.epoch}
        if gains is not None:
            record |= {"batches": self.config.probe_batches, "draws": DRAWS}
        chosen = growing(record, names)
        self.tracker.narrow(chosen, state, network)
        self.record = record
        self._write()
        self.rename_best([n for n in names if n not in chosen])
        added = record["added_parameters"]
        self.run.log("choose", layers=chosen, of=len(names), added_parameters=added)
        file = self.run.folder.layers_file.name
        self.run.say(f"{len(chosen)} of {len(names)} layers are chosen to grow, see {file}")

    def follow(self, record: dict[str, Any] | None) -> None:
        """Take over a choice: that of rank 0; the network's weights come afterwards."""
        if record is None or self.record is not None:
            return
        self.record = record
        self.tracker.unwrap()
        self.tracker.layers = growing(record, self.tracker.layers)
        self.tracker.open()

    def restore(self, record: dict[str, Any] | None) -> None:
        """Take over the choice of a checkpoint, before the tracker's state is loaded."""
        self.follow(record)
        if record is not None and self.run.is_main:
            self._write()

    def _gains(self, network: nn.Module, names: list[str]) -> dict[str, float]:
        trainer = self.run.trainer
        batches = training_batches(trainer, self.config.probe_batches)
        loss_of = trainer_loss(trainer, network)
        return expected_gains(network, names, self.config, batches, loss_of, self.run.seed)

    def _write(self) -> None:
        """``layers.json``, and ``layers.png`` where matplotlib is there."""
        assert self.record is not None
        write_json(self.run.folder.layers_file, self.record)
        try:
            from .layer_picture import draw_layers
        except ImportError:
            return
        with atomic(self.run.folder.layers_picture) as temporary:
            draw_layers(self.record, temporary)

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
