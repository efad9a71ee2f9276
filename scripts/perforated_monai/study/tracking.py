"""Trackers beside TensorBoard: handlers that a study lays over every trial."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events

from ..errors import UserError

KNOWN = ("mlflow", "wandb")


def trackers(names: Sequence[str], study: str) -> dict[str, Any]:
    """Configuration that adds trackers to a training; the run folder has TensorBoard anyway.

    Args:
        names: of ``KNOWN``.
        study: name of the experiment or project.

    Raises:
        UserError: for an unknown or missing tracker.
    """
    for name in names:
        if name not in KNOWN:
            msg = f"--tracking must be of {', '.join(KNOWN)}; got {name!r}."
            raise UserError(msg)
        if importlib.util.find_spec(name) is None:
            msg = f"--tracking {name} needs the package: pip install {name}."
            raise UserError(msg)
    handlers = []
    if "mlflow" in names:
        handlers.append(
            {
                "_target_": "perforated_monai.study.tracking.mlflow_handler",
                "experiment": study,
                "folder": "@output_dir",
            }
        )
    if "wandb" in names:
        handlers.append(
            {
                "_target_": "perforated_monai.study.tracking.WandbHandler",
                "evaluator": "@validate::evaluator",
                "project": study,
                "folder": "@output_dir",
            }
        )
    return {"+train::handlers": handlers} if handlers else {}


def mlflow_handler(experiment: str, folder: str) -> Any:
    """MONAI's own handler, writing into a database in the run folder."""
    from monai.handlers import MLFlowHandler, from_engine

    database = Path(folder).resolve() / "mlruns.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    return MLFlowHandler(
        tracking_uri=f"sqlite:///{database}",
        experiment_name=experiment,
        output_transform=from_engine("loss", first=True),
        close_on_complete=True,
    )


class WandbHandler:
    """Log loss and validation metrics by Ignite's logger; offline unless ``WANDB_MODE`` says else.

    Args:
        evaluator: the validation engine.
        project: name of the project.
        folder: where wandb writes.
    """

    def __init__(self, evaluator: Any, project: str, folder: str) -> None:
        self.evaluator, self.project, self.folder = evaluator, project, folder

    def attach(self, trainer: Any) -> None:
        """Open the logger when the training starts."""
        trainer.add_event_handler(Events.STARTED, self._started)

    def _started(self, trainer: Any) -> None:
        from ignite.handlers.wandb_logger import WandBLogger
        from monai.handlers import from_engine

        mode = os.environ.get("WANDB_MODE", "offline")
        logger = WandBLogger(project=self.project, dir=self.folder, mode=mode)
        loss = from_engine("loss", first=True)
        logger.attach_output_handler(
            trainer,
            Events.ITERATION_COMPLETED,
            "training",
            output_transform=lambda output: {"loss": loss(output)},
        )
        logger.attach_output_handler(
            self.evaluator,
            Events.EPOCH_COMPLETED,
            "validation",
            metric_names="all",
            global_step_transform=lambda *_: trainer.state.iteration,
        )
        trainer.add_event_handler(Events.COMPLETED, lambda _: logger.close())
