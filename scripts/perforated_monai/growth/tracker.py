"""``Tracker``: growth of one network by perforatedai, and its state."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..dendrites.config import DendriteConfig
from ..dendrites.sites import drop_hooks, image_sites
from ..dendrites.targets import find_targets
from ..dendrites.wrapped import (
    base_layer,
    count_grown_parameters,
    dendrite_count,
    drop_text_buffer,
    is_scaffold,
    refuse_other_network,
    train_dendrites,
    wrapped_modules,
)
from ..errors import UserError
from ..networks.surgery import replace_module
from ..training.seeds import DRAW_RULE, own_random_numbers, seed_of_draw
from .layer_hooks import keep_dtype, set_dimensions_on_first_forward
from .library import (
    apply_settings,
    dendrite_maker,
    import_library,
    refuse_stray_rank,
    remove_all_but,
    verify_thresholds,
    within_reach,
)
from .outcome import Outcome
from .place_sites import make_sites
from .plain_tensors import run_on_plain_tensors
from .sandbox import TrackerError, guard, inside

_open_tracker: Tracker | None = None


class Tracker:
    """A perforatedai tracker around one network, isolated from the rest of the process.

    Order of use: ``open()`` wraps the layers; train at least one step; ``add_score`` once per
    validation; after a restructure give the optimizer its new parameters; ``close()`` puts the
    process back as it was. Between ``open`` and ``close`` the network runs with this tracker's
    settings: the library reads them from a global at each forward pass.

    Args:
        network: any network; its matching layers are wrapped in place.
        config: what to grow and when.
        folder: a folder for the tracker's own files; it is created.
        seed: seeds dendrite initialisation, apart from every other generator.
        writes: whether this process writes files (rank 0 of a distributed run).
        layers: which layers to wrap; by default all that ``config`` leaves.
    """

    def __init__(
        self,
        network: nn.Module,
        config: DendriteConfig,
        folder: str | Path,
        seed: int = 0,
        writes: bool = True,
        layers: list[str] | None = None,
    ) -> None:
        self.network = network
        self.config = config
        self.folder = Path(folder).resolve()
        self.seed = seed
        self.writes = writes
        self.kinds = within_reach(network, find_targets(network, config))
        self.candidates = list(self.kinds)
        self.layers = list(self.candidates if layers is None else layers)
        self.best = -math.inf
        self.calls = 0
        self.draw_rule = DRAW_RULE
        self._gpa: Any = None
        self._before: tuple[Any, Any] | None = None
        self._hooks: list[Any] = []
        self._dtype_hooks: list[Any] = []

    # -- life ------------------------------------------------------------------------------

    def open(self) -> None:
        """Wrap the layers and make this tracker the process's own until ``close``."""
        global _open_tracker
        if _open_tracker is not None:
            msg = "Only one dendritic run at a time in a process: close the other one first."
            raise UserError(msg)
        refuse_stray_rank()
        gpa, upa = import_library()
        self._gpa, self._upa = gpa, upa
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._before = (gpa.pc, gpa.pai_tracker)
        with guard(self.config.verbose):
            gpa.pc = gpa.PAIConfig()
        _open_tracker = self
        try:
            with guard(self.config.verbose), own_random_numbers(self.network, self.seed):
                wrapped = make_sites(self.network, self.layers, self.kinds)
                apply_settings(gpa.pc, self.config, wrapped, self.network)
                # A fresh folder: perforate_model reads settings of earlier runs from the current
                # folder and writes its own there.
                with tempfile.TemporaryDirectory() as empty, inside(empty):
                    upa.perforate_model(
                        self.network,
                        save_name="tracker",
                        maximizing_score=True,
                        making_graphs=False,
                    )
                gpa.pc.set_save_name(str(self.folder))
                verify_thresholds(gpa.pc, self.config)
                self._prepare_modules()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the process its own settings back; wrapped layers stay where they are."""
        global _open_tracker
        if _open_tracker is self and self._before is not None:
            self._gpa.pc, self._gpa.pai_tracker = self._before
            _open_tracker = None
        while self._hooks:
            self._hooks.pop().remove()

    def unwrap(self) -> None:
        """Make the network plain again, without its dendrites, and close; ``open`` may follow."""
        for name, module in self.modules():
            replace_module(self.network, name, base_layer(self.network, name, module))
        drop_hooks(self.network)
        drop_text_buffer(self.network)
        while self._dtype_hooks:
            self._dtype_hooks.pop().remove()
        self.close()

    def leave_out(self, names: list[str]) -> None:
        """Make layers plain again, as if they had never been wrapped, before the first growth."""
        for name, module in self.modules():
            if name in names:
                replace_module(self.network, name, base_layer(self.network, name, module))
        if not image_sites(self.network):
            drop_hooks(self.network)
        self.layers = [name for name in self.layers if name not in names]
        with guard(self.config.verbose):
            self._gpa.pai_tracker.reset_module_vector(self.network, False)

    def _prepare_modules(self) -> None:
        tracker = self._gpa.pai_tracker
        # The first score never counts as a best while num_epochs_run is 0 (measured: .9, .5, .5
        # kept .5 as the best).
        tracker.member_vars["num_epochs_run"] = 1
        there = [name for name, _ in self.modules()]
        if there != self.layers:
            missing = [n for n in self.layers if n not in there]
            msg = f"perforatedai did not wrap the layers {missing[:5]} of {len(self.layers)}."
            raise TrackerError(msg)
        for name, module in self.modules():
            module.set_create_dendrite(dendrite_maker(self.kinds[name], self.config))
            set_dimensions_on_first_forward(module)
            self._dtype_hooks.append(keep_dtype(module))
        self._hooks = run_on_plain_tensors(self.network)

    # -- what the network holds ------------------------------------------------------------

    def modules(self) -> list[tuple[str, Any]]:
        """Wrapped layers by their name in the base network."""
        return wrapped_modules(self.network)

    @property
    def sets(self) -> int:
        """Dendrite sets in the network now (largest count of any layer)."""
        return max((dendrite_count(m) for _, m in self.modules()), default=0)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters the optimizer must hold: no templates, no frozen rows of old sets."""
        return [
            (name, p)
            for name, p in self.network.named_parameters()
            if p.requires_grad and not is_scaffold(name)
        ]

    def count_parameters(self) -> int:
        """Parameters of the exported network: what is used at inference, counted once."""
        return count_grown_parameters(self.network)

    # -- growth ----------------------------------------------------------------------------

    def accepts(self, score: float) -> bool:
        """Whether a network with this score may become the run's best.

        True before the first growth and once the newest set has passed the improvement threshold
        over the best score before it.
        """
        state = self._gpa.pai_tracker.member_vars
        if self.sets == 0 or state["current_n_set_global_best"]:
            return True
        best = state["global_best_validation_score"]
        with guard(self.config.verbose):
            relative = self._gpa.pc.get_improvement_threshold()
        raw = self.config.improvement_threshold_raw
        return bool(score * (1.0 - relative) > best and score - raw > best)

    def add_score(
        self, score: float, optimizer: torch.optim.Optimizer, force: bool = False
    ) -> Outcome:
        """Give one validation score (higher is better, Dice in [0, 1]) to the tracker.

        The network is rolled back and grown in place when the score has stopped improving, or with
        ``force``. Force only the first score of a run: a later one that is no new best would end
        growth.

        Raises:
            UserError: for a score that is not finite.
            TrackerError: where the library would have stopped in a debugger or left the process.
        """
        score = float(score)
        if not math.isfinite(score):
            msg = f"The validation score must be finite; got {score}. Look for NaN in the loss."
            raise UserError(msg)
        gpa, state = self._gpa, self._gpa.pai_tracker.member_vars
        score = max(score, 1e-6)  # 0 means "none yet" to the library: it would never switch
        before = self.sets
        accepted = before == 0 or self.accepts(score)
        if (
            self.writes
            and score > self.best
            and (before == 0 or state["current_n_set_global_best"])
        ):
            # The library keeps a best only when it passes the improvement threshold; roll-back
            # must return to the real best, and the next set must beat that one.
            state["global_best_validation_score"] = score
            state["current_n_set_global_best"] = True
            self._save_best()
        if accepted:
            self.best = max(self.best, score)
        state["optimizer_instance"] = optimizer
        drawn = seed_of_draw(self.seed, self.calls, self.draw_rule)
        self.calls += 1
        training = self.network.training
        with guard(self.config.verbose), own_random_numbers(self.network, drawn):
            _, restructured, complete = gpa.pai_tracker.add_validation_score(
                score, self.network, force_switch=force
            )
        # The returned network mixes modes when it was in eval mode: set them all.
        self.network.train(training)
        gpa.pai_tracker.member_vars["optimizer_instance"] = None
        if complete:
            return Outcome("complete", self.sets, rejected=self.sets < before)
        if not restructured:
            return Outcome("", self.sets)
        self._after_restructure()
        grown = accepted or gpa.pai_tracker.member_vars["num_dendrite_tries"] == 0
        return Outcome("grow" if grown else "retry", self.sets, rejected=not grown)

    def _save_best(self) -> None:
        with guard(self.config.verbose):
            self._upa.save_system(self.network, str(self.folder), "best_model")

    def _after_restructure(self) -> None:
        train_dendrites(self.network)
        remove_all_but(self.folder, "best_model.pt")

    # -- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything but the network's own tensors that a resumed run needs."""
        members = dict(self._gpa.pai_tracker.member_vars)
        for name in _NOT_STATE:
            members.pop(name, None)
        best = self.folder / "best_model.pt"
        data = torch.empty(0, dtype=torch.uint8)  # before the first validation there is none
        if best.exists():
            data = torch.frombuffer(bytearray(best.read_bytes()), dtype=torch.uint8)
        return {
            "members": members,
            "best_model": data,
            "best": self.best,
            "calls": self.calls,
            "draw_rule": self.draw_rule,
        }

    def load_state_dict(self, state: dict[str, Any], network_state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict()`` of another process, after ``open()``.

        Args:
            state: of ``state_dict()``.
            network_state: the grown network's state dict at the same moment.
        """
        if self.writes:
            remove_all_but(self.folder, "")
            if state["best_model"].numel():
                (self.folder / "best_model.pt").write_bytes(state["best_model"].numpy().tobytes())
        self.load_network(network_state)
        tracker = self._gpa.pai_tracker
        with guard(self.config.verbose):
            tracker.reset_module_vector(self.network, False)
        tracker.member_vars.update(state["members"])
        self.best, self.calls = state["best"], state["calls"]
        self.draw_rule = state.get("draw_rule", 1)  # a run that began before the rule was written

    def load_network(self, network_state: dict[str, Tensor]) -> None:
        """Give the network a grown state dict's structure and weights; another's is refused."""
        refuse_other_network(self.network, network_state)
        training = self.network.training
        with guard(self.config.verbose), own_random_numbers(self.network, self.seed):
            self._upa.load_net_from_dict(self.network, dict(network_state))
        self.network.train(training)


# What a grown state dict carries beside weights: pointers and clocks of the live process.
_NOT_STATE = ("optimizer", "optimizer_instance", "scheduler", "scheduler_instance")
