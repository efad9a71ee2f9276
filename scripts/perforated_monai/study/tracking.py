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
    train: list[dict[str, Any]] = []
    validate: list[dict[str, Any]] = []
    if "mlflow" in names:
        target = {"_target_": "perforated_monai.study.tracking.mlflow_handler"}
        where = {"experiment": study, "folder": "@output_dir"}
        train.append(target | where)
        validate.append(target | where | {"validation": True})
    if "wandb" in names:
        train.append(
            {
                "_target_": "perforated_monai.study.tracking.WandbHandler",
                "evaluator": "@validate::evaluator",
                "project": study,
                "folder": "@output_dir",
            }
        )
    added = {"+train::handlers": train, "+validate::handlers": validate}
    return {key: handlers for key, handlers in added.items() if handlers}


def mlflow_handler(experiment: str, folder: str, validation: bool = False) -> Any:
    """MONAI's own handler, writing into a database in the run folder, or to MLFLOW_TRACKING_URI.

    Args:
        experiment: name of the experiment.
        folder: run folder; its name is the run's.
        validation: for the validation engine, which has metrics and no loss.
    """
    from monai.handlers import MLFlowHandler, from_engine

    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    return MLFlowHandler(
        tracking_uri=f"sqlite:///{place / 'mlruns.db'}",
        experiment_name=experiment,
        run_name=place.name,
        iteration_log=not validation,
        output_transform=from_engine("loss", first=True),
        close_on_complete=not validation,
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
