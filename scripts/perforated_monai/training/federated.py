"""Federated learning: the server keeps the weights, so a client neither grows nor resumes."""

from __future__ import annotations

import inspect

from ..errors import UserError

_CLIENTS = "monai.fl.client"  # MonaiAlgo; NVFlare's executor calls it too


def refuse_in_federation() -> None:
    """Raise UserError when a federated client is building the trainer.

    Sites that grow apart could not exchange weights, and a run folder would give each round the
    weights of the round before.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_CLIENTS):
            msg = (
                "RunHandler and DendriteHandler cannot be used in federated learning: every site "
                "needs the same fixed network. Grow and export first, then give MonaiAlgo "
                "config_train_filename=['configs/train.json', 'configs/fixed_structure.yaml']."
            )
            raise UserError(msg)
        frame = frame.f_back
